import { createHash } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll } from "vitest";
import type { AskOptions, Conversation, MemoryOptions } from "../../lib/index.js";

/** A folder of this test file, removed at its end. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "longhaul-snapshots-"));
  afterAll(() => rmSync(folder, { recursive: true }));
  return folder;
}

/** Every way of keeping rows that has one stream. */
export const policies: [string, MemoryOptions][] = [
  ["full", {}],
  ["streaming", { policy: "streaming", budget: 96, block: 128, tail: 48, sinks: 2 }],
  ["snapkv", { policy: "snapkv", budget: 96, block: 128, tail: 48, window: 16, kernel: 7 }],
  ["snapkv-refed", { policy: "snapkv-refed", budget: [64, 96, 128], block: 100, tail: 48 }],
  ["keydiff", { policy: "keydiff", budget: 96, block: 128, tail: 48 }],
  ["keydiff, level head", { policy: "keydiff", budget: [70, 96, 50], block: 128, tail: 48, level: "head" }],
  ["tova", { policy: "tova", budget: 96, block: 128, tail: 48 }],
  ["kvzip", { policy: "kvzip", budget: 96, block: 100, tail: 48, prompt: "again :" }],
  ["patched-prompt", { policy: "patched-prompt", budget: 96, block: 128, tail: 48, prompt: "what was said ?" }],
];

/** Questions, answers and evictions; what comes of them depends on every row that is kept. */
export async function goOn(conversation: Conversation): Promise<unknown[]> {
  const seen: unknown[] = [];
  const ask = async (question: string, options: AskOptions) => {
    const { text, tokens, usage } = await conversation.ask(question, options).result();
    seen.push({ text, tokens, usage, memory: conversation.memory() });
  };
  await ask("rex color ?", { maxTokens: 24, stopTokens: [], remember: false });
  await ask("milo age ?", { maxTokens: 60, stopTokens: [] });
  await ask("rex food ?", { maxTokens: 40, stopTokens: [], temperature: 1.3, topP: 0.95, seed: 11 });
  await ask("coco sound ?", { maxTokens: 12, repetitionPenalty: 1.3 });
  return [...seen, conversation.messages];
}

/** The parts of a snapshot's bytes: [begin, end). */
export function partsOf(file: Buffer) {
  const json = file.readUInt32LE(12);
  const state = JSON.parse(file.toString("utf8", 16, 16 + json));
  const parts: [string, number, number][] = [
    ["magic", 0, 8],
    ["version", 8, 12],
    ["JSON's length", 12, 16],
    ["JSON", 16, 16 + json],
  ];
  let at = 16 + json;
  const add = (name: string, bytes: number) => {
    if (bytes > 0) parts.push([name, at, at + bytes]);
    at += bytes;
  };
  for (const [index, { lengths, headDim, dtype }] of state.sequences.entries()) {
    const rows = lengths.reduce((sum: number, length: number) => sum + length, 0);
    add(`positions of sequence ${index}`, 4 * rows);
    for (const [head, length] of lengths.entries()) {
      const bytes = length * headDim * (dtype === "f32" ? 4 : 2);
      add(`keys of head ${head} of sequence ${index}`, bytes);
      add(`values of head ${head} of sequence ${index}`, bytes);
    }
  }
  add("checksum", 32);
  return { parts, state, sections: file.subarray(16 + json, file.length - 32) };
}

/** A file with another JSON and sections, whose checksum fits. */
export function sealed(json: unknown, sections: Uint8Array): Buffer {
  const text = Buffer.from(JSON.stringify(json));
  const header = Buffer.alloc(16);
  header.write("longhaul", "latin1");
  header.writeUInt32LE(2, 8);
  header.writeUInt32LE(text.length, 12);
  const content = Buffer.concat([header, text, sections]);
  return Buffer.concat([content, createHash("sha256").update(content).digest()]);
}
