// Policies "epicache" and "episodic": every episode's cache, and what tells which of them a question is about.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Conversation, Engine, MemoryOptions } from "../../lib/index.js";
import { expectError, load, recall, recallDialogue } from "../engine/support.js";
import { partsOf, sealed, temporaryFolder } from "./support.js";

const folder = temporaryFolder();
const path = join(folder, "episodes.snapshot");
const { text, questions } = recallDialogue(1000);
let engine: Engine;
let other: Engine;
beforeAll(async () => {
  engine = await load(recall);
  other = await load(recall);
});
afterAll(() => Promise.all([engine.dispose(), other.dispose()]));

const split = (whole: string): string[] => whole.split(/ (?=user :|session )/);
/** How often each letter is there: enough to tell windows apart. */
const embed = (texts: readonly string[]): number[][] =>
  texts.map((each) => Array.from({ length: 26 }, (_, i) => each.split(String.fromCharCode(97 + i)).length - 1));
const own: MemoryOptions = {
  policy: "epicache",
  budget: 96,
  block: 128,
  tail: 64,
  episodes: { min: 2, max: 4 },
  representatives: 5,
  clustering: { restarts: 3, seed: 7 },
};
const withFunctions: MemoryOptions = {
  ...own,
  instruction: "what was said ?",
  embed,
  windows: { size: 3, split },
};

async function goOn(conversation: Conversation): Promise<unknown[]> {
  const seen: unknown[] = [];
  for (const [index, { question }] of questions.slice(0, 6).entries()) {
    // What is not remembered has to fit a tail that others filled.
    const remember = index !== 1;
    const maxTokens = remember ? 14 : 3;
    const options = { maxTokens, stopTokens: [], seed: index, temperature: index % 2, remember };
    const { text, tokens } = await conversation.ask(question, options).result();
    seen.push({ text, tokens, memory: conversation.memory() });
  }
  return [...seen, conversation.messages];
}

describe("a conversation in episodes", () => {
  it.each([
    ["the engine's own vectors", own, {}],
    ["functions of the user", withFunctions, { embed }],
    ["one episode in the pool at a time", { ...own, resident: 1 }, {}],
    ["its own utterances first", { ...own, policy: "episodic", representatives: 0 }, {}],
  ] as const)("goes on as the original does, with %s", async (_, memory, functions) => {
    const original = await engine.conversation({ memory, system: "be brief ." });
    await original.ingest(text);
    for (const { question } of questions.slice(6, 10)) await original.ask(question, { maxTokens: 6 }).result();
    await original.save(path);
    const restored = await other.restore(path, functions);
    expect(restored.memory()).toEqual(original.memory());
    expect(restored.memory().episodes?.list.length).toBeGreaterThan(1);
    expect(restored.messages).toEqual(original.messages);
    expect(await goOn(restored)).toEqual(await goOn(original));

    // The messages of all episodes are one list again, in the order in which they came.
    await restored.save(path);
    const again = await other.restore(path, functions);
    expect(await goOn(again)).toEqual(await goOn(restored));
    await Promise.all([original, restored, again].map((conversation) => conversation.dispose()));
    expect(other.memory().pool).toMatchObject({ reserved: 0, used: 0 });
  });

  it("may have no history yet", async () => {
    await using original = await engine.conversation({ memory: withFunctions });
    await original.save(path);
    await expectError(
      other.restore(path, { embed }),
      "ERR_INVALID_ARGUMENT",
      /^split must be the function that/,
    );
    await using restored = await other.restore(path, { embed, split });
    expect(restored.memory()).toEqual(original.memory());
    await original.ingest(text);
    await restored.ingest(text);
    expect(restored.memory()).toEqual(original.memory());
    expect(await goOn(restored)).toEqual(await goOn(original));
  });

  it("is refused without the function that it was made with, and with one that it was not", async () => {
    await using original = await engine.conversation({ memory: withFunctions });
    await original.ingest(text);
    await original.save(path);
    await expectError(
      other.restore(path),
      "ERR_INVALID_ARGUMENT",
      /^embed must be the function that the conversation had: .* cannot hold it, got undefined$/,
    );
    const wrong = { embed: "engine" } as never;
    await expectError(other.restore(path, wrong), "ERR_INVALID_ARGUMENT", /^embed must be the function/);

    await using plain = await engine.conversation({ memory: own });
    await plain.ingest(text);
    await plain.save(path);
    await expectError(
      other.restore(path, { embed }),
      "ERR_INVALID_ARGUMENT",
      /^embed must be left out: .* had none/,
    );
    expect(other.memory().pool).toMatchObject({ reserved: 0, used: 0 });
  });

  // biome-ignore lint/suspicious/noExplicitAny: JSON of any kind, wrong in one place.
  const wrong: [(built: any) => void, RegExp][] = [
    [(built) => (built.growth.transcript.passages[0].ids[0] = 1e6), /the transcript\[\d+\] must be/],
    [(built) => (built.growth.opening = [-1]), /built.growth.opening\[0\] must be/],
    [(built) => (built.growth.transcript.passages[0].said = 5), /passages\[0\].said must be/],
    [(built) => (built.growth.transcript.separator = "-"), /separator must be one of/],
    [(built) => built.begun.pop(), /built.begun must be one number an episode/],
    [(built) => (built.made = 99), /built.made must be an integer from 1 to/],
    [(built) => (built.growth.units = -1), /built.growth.units must be/],
  ];
  it("is refused with numbers and texts that no conversation has", async () => {
    await using original = await engine.conversation({ memory: own });
    await original.ingest(text);
    await original.save(path);
    const saved = readFileSync(path);
    for (const [edit, message] of wrong) {
      const { state, sections } = partsOf(saved);
      edit(state.streams.built);
      writeFileSync(path, sealed(state, sections));
      await expectError(other.restore(path), "ERR_CORRUPT_FILE", message);
    }
    expect(other.memory().pool).toMatchObject({ reserved: 0, used: 0 });
  });

  it("waits in host memory where not all of its caches fit, and is refused as a whole where none does", async () => {
    await using original = await engine.conversation({ memory: own });
    await original.ingest(text);
    await original.save(path);
    const { reservedBytes, rows, episodes } = original.memory();
    await using small = await load(recall, { kvBytes: reservedBytes - 100_000 });
    await using restored = await small.restore(path);
    expect(restored.memory().rows).toEqual(rows);
    expect(restored.memory().episodes?.list.some(({ resident }) => !resident)).toBe(true);
    expect(restored.memory().reservedBytes).toBeLessThan(reservedBytes);
    const answersOf = async (conversation: Conversation) => {
      const texts: string[] = [];
      for (const { question } of questions) {
        texts.push((await conversation.ask(question, { maxTokens: 6 }).result()).text);
      }
      return texts;
    };
    expect(await answersOf(restored)).toEqual(await answersOf(original));

    const each = Math.floor(reservedBytes / (episodes?.list.length ?? 1));
    await using tiny = await load(recall, { kvBytes: each - 10_000 });
    await expectError(tiny.restore(path), "ERR_OUT_OF_MEMORY", /this conversation needs/);
    expect(tiny.memory().pool).toMatchObject({ reserved: 0, used: 0 });
  });
});
