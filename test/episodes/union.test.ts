// Questions that go to two episodes.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Conversation, Engine, MemoryOptions } from "../../lib/index.js";
import { expectError, load, recall, recallDialogue, rejection } from "../engine/support.js";

let engine: Engine;
beforeAll(async () => {
  engine = await load(recall);
});
afterAll(() => engine.dispose());

const dialogue = recallDialogue(1000);
const lexicon = JSON.parse(readFileSync(join(recall, "lexicon.json"), "utf8"));
const topical = [lexicon.entities, lexicon.topic_words].flatMap((words: Record<string, string | string[]>) =>
  Object.values(words).flatMap((list) => (typeof list === "string" ? list.split(" ") : list)),
);
const embed = (texts: readonly string[]) =>
  texts.map((text) => topical.map((word) => text.split(/\s+/).filter((each) => each === word).length));

const one = {
  policy: "epicache",
  budget: 64,
  block: 128,
  tail: 64,
  windows: { split: (text: string) => text.split(/ (?=user :|session )/) },
  instruction: false,
  embed,
} satisfies MemoryOptions;
const two = { ...one, topEpisodes: 2 } satisfies MemoryOptions;

async function rightAnswers(conversation: Conversation): Promise<number> {
  let right = 0;
  for (const { question, answer } of dialogue.questions) {
    const { text } = await conversation.ask(question, { maxTokens: 8, remember: false }).result();
    if (text === answer) right++;
  }
  return right / dialogue.questions.length;
}

describe("two episodes asked as one", () => {
  it("answer no fewer questions than one of them, and leave nothing behind", async () => {
    const shares: number[] = [];
    for (const memory of [one, two]) {
      await using conversation = await engine.conversation({ memory });
      await conversation.ingest(dialogue.text);
      const before = conversation.memory();
      const pool = engine.memory().pool;
      shares.push(await rightAnswers(conversation));
      const after = conversation.memory();
      expect(after.rows).toEqual(before.rows);
      expect(after.tokensSeen).toBe(before.tokensSeen);
      expect(after.reservedBytes).toBe(before.reservedBytes);
      // The union was there beside all caches, with the rows of one of them at least.
      const least = Math.min(...(before.episodes?.list ?? []).map(({ bytes }) => bytes));
      expect(after.peakBytes).toBeGreaterThanOrEqual(before.bytes + (memory === two ? least : 0));
      expect(engine.memory().pool.used).toBe(pool.used);
      expect(engine.memory().pool.reserved).toBe(pool.reserved);
    }
    expect(shares[1]).toBeGreaterThanOrEqual((shares[0] as number) - 0.03);
  });

  it("leave the turn in the tail of the one that the question is most like", async () => {
    await using conversation = await engine.conversation({ memory: two });
    const { tokens } = await conversation.ingest(dialogue.text);
    const { question } = dialogue.questions[0] as { question: string };
    const before = conversation.memory();
    const answer = await conversation.ask(question, { maxTokens: 8 }).result();
    const after = conversation.memory();
    const taken = answer.usage.promptTokens + answer.usage.completionTokens;
    const { active, list = [] } = after.episodes ?? {};
    for (const [episode, { tokensSeen, rows }] of list.entries()) {
      const turn = episode === active ? taken : 0;
      expect(tokensSeen).toBe(tokens + turn);
      const kept = before.episodes?.list[episode]?.rows.flat() ?? [];
      // In the tail: every head has as many rows more.
      expect(rows.flat()).toEqual(kept.map((length) => length + turn));
    }
    // The next question finds them there.
    const next = await conversation.ask(question, { maxTokens: 8 }).result();
    expect(conversation.memory().tokensSeen).toBe(
      after.tokensSeen + next.usage.promptTokens + next.usage.completionTokens,
    );
  });

  it("take back what was not read", async () => {
    await using conversation = await engine.conversation({ memory: two });
    await conversation.ingest(dialogue.text);
    const { tokensSeen, rows } = conversation.memory();
    const { question } = dialogue.questions[1] as { question: string };
    for await (const _ of conversation.ask(question, { maxTokens: 40, stopTokens: [] })) break;
    const read = conversation.memory();
    expect(read.tokensSeen).toBeLessThan(tokensSeen + 20);
    expect(read.tokensSeen).toBeGreaterThan(tokensSeen);
    expect(read.rows).not.toEqual(rows);
    const reserved = engine.memory().pool.reserved;
    const signal = AbortSignal.abort(new Error("enough"));
    expect(await rejection(conversation.ask(question, { signal }).result())).toMatchObject({
      message: "enough",
    });
    expect(conversation.memory().tokensSeen).toBe(read.tokensSeen);
    expect(engine.memory().pool.reserved).toBe(reserved);
  });

  it("are one where there is only one", async () => {
    await using conversation = await engine.conversation({ memory: { ...two, episodes: 1 } });
    await conversation.ingest(dialogue.text);
    const { question } = dialogue.questions[0] as { question: string };
    const { text } = await conversation.ask(question, { maxTokens: 8 }).result();
    expect(text.length).toBeGreaterThan(0);
    expect(conversation.memory().peakBytes).toBeLessThanOrEqual(conversation.memory().reservedBytes);
  });

  it("are refused where it is not clear which rows they share, and where there is no room", async () => {
    await expectError(
      engine.conversation({ memory: { ...two, positions: "packed" } }),
      "ERR_INVALID_ARGUMENT",
      /memory\.topEpisodes: 2 needs memory\.positions: "absolute"/,
    );
    await expectError(
      engine.conversation({ memory: { ...two, topEpisodes: 3 as 2 } }),
      "ERR_INVALID_ARGUMENT",
      /memory\.topEpisodes must be/,
    );
    await using large = await engine.conversation({ memory: two });
    await large.ingest(dialogue.text);
    const { reservedBytes } = large.memory();
    // Room for the episodes, and for less than half of another one.
    await using small = await load(recall, { kvBytes: Math.floor(reservedBytes * 1.1) });
    await using conversation = await small.conversation({ memory: two });
    await conversation.ingest(dialogue.text);
    const { question } = dialogue.questions[0] as { question: string };
    const { reserved } = small.memory().pool;
    await expectError(conversation.ask(question).result(), "ERR_OUT_OF_MEMORY", /pages free/);
    expect(small.memory().pool.reserved).toBe(reserved);
  });
});
