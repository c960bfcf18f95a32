// Conversations behind the model's last position.
import { mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Conversation, Engine, MemoryOptions } from "../../lib/index.js";
import { expectError, load, recall, recallDialogue } from "./support.js";

const WINDOW = 512;
const directory = mkdtempSync(join(tmpdir(), "longhaul-positions-"));

/** recall-llama, but for the number of its positions. */
function shortModel(): string {
  for (const file of readdirSync(recall)) {
    if (file !== "config.json") symlinkSync(join(recall, file), join(directory, file));
  }
  const config = JSON.parse(readFileSync(join(recall, "config.json"), "utf8"));
  writeFileSync(join(directory, "config.json"), JSON.stringify({ ...config, max_position_embeddings: WINDOW }));
  return directory;
}

let short: Engine;
let whole: Engine;
beforeAll(async () => {
  short = await load(shortModel());
  whole = await load(recall);
});
afterAll(async () => {
  await Promise.all([short.dispose(), whole.dispose()]);
  rmSync(directory, { recursive: true });
});

// Each head keeps as many rows, so that bytes can be compared.
const packed = {
  policy: "keydiff",
  budget: 64,
  block: 64,
  tail: 64,
  level: "head",
  positions: "packed",
} satisfies MemoryOptions;

const dialogue = recallDialogue(2000);
const turns = dialogue.text.split(/ (?=user :|session )/);

// What the dialogue says nothing about.
const lexicon = JSON.parse(readFileSync(join(recall, "lexicon.json"), "utf8"));
const words = (list: string | string[]) => (typeof list === "string" ? list.split(" ") : list);
const entities = Object.values<string | string[]>(lexicon.entities).flatMap(words);
const attributes = words(lexicon.attributes);
const values = words(lexicon.values);
const facts = entities
  .map((entity, i) => ({
    subject: `${entity} ${attributes[i % attributes.length]}`,
    value: values[(7 * i) % values.length],
  }))
  .filter(({ subject }) => !dialogue.text.includes(subject));

const answerTo = async (conversation: Conversation, question: string) =>
  (await conversation.ask(question, { maxTokens: 8, remember: false }).result()).text;

describe("packed positions", () => {
  it("are each conversation's own, also where several are answered in one pass", async () => {
    const parts = [0, 40, 80].map((begin) => turns.slice(begin, begin + 60).join(" "));
    const goOn = async (conversation: Conversation) => {
      const seen: unknown[] = [];
      for (const question of ["rex color ?", "milo age ?", "coco sound ?"]) {
        const options = { maxTokens: 150, stopTokens: [], temperature: 1, seed: 5 };
        seen.push((await conversation.ask(question, options).result()).tokens);
      }
      return [...seen, conversation.memory()];
    };
    const open = async (part: string) => {
      const conversation = await short.conversation({ memory: packed });
      await conversation.ingest(part);
      return conversation;
    };
    const alone: unknown[] = [];
    for (const part of parts) {
      await using conversation = await open(part);
      alone.push(await goOn(conversation));
      expect(conversation.memory().positions.packings).toBeGreaterThan(0);
    }
    const together = await Promise.all(parts.map(open));
    expect(await Promise.all(together.map(goOn))).toEqual(alone);
    await Promise.all(together.map((conversation) => conversation.dispose()));
  });

  it("carry a conversation over three windows of the model's 8192 positions in constant bytes", async () => {
    await using conversation = await whole.conversation({ memory: { ...packed, budget: 128, block: 128 } });
    const bytes = new Set<number>();
    let said = 0;
    while (conversation.memory().tokensSeen < 3 * 8192 + 200) {
      await conversation.ingest(` ${dialogue.text}`);
      // What was said last is in the tail, and answered from there.
      const fact = facts[said++] as { subject: string; value: string };
      await conversation.ask(`${fact.subject} is ${fact.value} .`, { maxTokens: 2 }).result();
      bytes.add(conversation.memory().bytes);
      expect(await answerTo(conversation, `${fact.subject} ?`)).toBe(`${fact.subject} is ${fact.value}`);
    }
    const { positions, tokensSeen, bytes: now, peakBytes, reservedBytes } = conversation.memory();
    expect(positions.regime).toBe("packed");
    expect(positions.packings).toBeGreaterThanOrEqual(3);
    expect(positions.rotations).toBeLessThan(positions.packings);
    expect(positions.next).toBeLessThan(8192);
    expect(tokensSeen).toBeGreaterThan(3 * 8192);
    expect([...bytes]).toEqual([now]);
    expect(peakBytes).toBeLessThanOrEqual(reservedBytes);
  });

  it("change nothing up to the last position", async () => {
    const text = turns.slice(0, 35).join(" ");
    const answers: string[][] = [];
    for (const positions of ["absolute", "packed"] as const) {
      await using conversation = await short.conversation({ memory: { ...packed, positions } });
      await conversation.ingest(text);
      expect(conversation.memory().tokensSeen).toBeLessThan(WINDOW - 30);
      const { tokensSeen } = conversation.memory();
      expect(conversation.memory().positions).toEqual({
        regime: "absolute",
        next: tokensSeen,
        packings: 0,
        rotations: 0,
      });
      const each: string[] = [];
      for (const { question } of dialogue.questions.slice(0, 8))
        each.push(await answerTo(conversation, question));
      answers.push(each);
    }
    expect(answers[1]).toEqual(answers[0]);
  });

  it("are what the errors of absolute ones advise", async () => {
    await using conversation = await short.conversation({ memory: { ...packed, positions: "absolute" } });
    await expectError(
      conversation.ingest(dialogue.text),
      "ERR_INVALID_ARGUMENT",
      /512 positions .* positions: "packed" goes on/,
    );
    await expectError(
      short.conversation({ memory: { positions: "packed" } }),
      "ERR_INVALID_ARGUMENT",
      /cannot be packed under policy 'full': it keeps every row/,
    );
    await expectError(
      short.conversation({ memory: { ...packed, budget: 400 } }),
      "ERR_INVALID_ARGUMENT",
      /400 kept \+ tail 64 \+ block 64 .* = 528, and the model has 512; lower budget, tail or block/,
    );
    const sometimes = { ...packed, positions: "sometimes" } as unknown as MemoryOptions;
    await expectError(
      short.conversation({ memory: sometimes }),
      "ERR_INVALID_ARGUMENT",
      /memory\.positions must be one of/,
    );
  });

  it("let answers run over the last position, and be forgotten again", async () => {
    await using conversation = await short.conversation({ memory: packed });
    await conversation.ingest(turns.slice(0, 30).join(" "));
    const before = conversation.memory();
    const answer = await conversation
      .ask("coco sound ?", { maxTokens: 300, stop: [], stopTokens: [] })
      .result();
    expect(answer.usage.completionTokens).toBe(300);
    const after = conversation.memory();
    expect(before.positions.packings).toBe(0);
    expect(after.positions.packings).toBeGreaterThan(0);
    // The answer's last token has not run yet.
    expect(after.tokensSeen).toBe(before.tokensSeen + answer.usage.promptTokens + 299);
    await conversation.ingest(dialogue.text);
    const { tokensSeen, bytes, rows } = conversation.memory();
    for (const { question } of dialogue.questions) await answerTo(conversation, question);
    expect(conversation.memory()).toMatchObject({ tokensSeen, bytes, rows });
  });

  it("let episodes be made of a history longer than the window", async () => {
    const memory = {
      ...packed,
      policy: "epicache",
      episodes: 2,
      representatives: 2,
      instruction: false,
      windows: { split: (text: string) => text.split(/ (?=user :|session )/) },
    } satisfies MemoryOptions;
    await using conversation = await short.conversation({ memory });
    const { tokens } = await conversation.ingest(dialogue.text);
    expect(tokens).toBeGreaterThan(3 * WINDOW);
    const { positions, episodes, peakBytes, reservedBytes } = conversation.memory();
    expect(positions.regime).toBe("packed");
    expect(episodes?.list.map((episode) => episode.positions.regime)).toEqual(["packed", "packed"]);
    expect(peakBytes).toBeLessThanOrEqual(reservedBytes);
    const fact = facts[0] as { subject: string; value: string };
    // Question and answer stay in one episode, whichever it is, when it is the only one asked.
    const said = await conversation.ask(`${fact.subject} is ${fact.value} .`, { maxTokens: 2 }).result();
    expect(conversation.memory().tokensSeen).toBe(tokens + said.usage.promptTokens + 1);
  });

  it("are saved and restored", async () => {
    await using original = await short.conversation({ memory: { ...packed, level: "pair" } });
    await original.ingest(dialogue.text);
    expect(original.memory().positions.regime).toBe("packed");
    const path = join(directory, "packed.snapshot");
    await original.save(path);
    await using restored = await short.restore(path);
    expect(restored.memory()).toEqual(original.memory());
    for (const conversation of [original, restored]) await conversation.ingest(turns.slice(0, 40).join(" "));
    for (const { question } of dialogue.questions.slice(0, 6)) {
      expect(await answerTo(restored, question)).toBe(await answerTo(original, question));
    }
    expect(restored.memory().positions).toEqual(original.memory().positions);
  });
});
