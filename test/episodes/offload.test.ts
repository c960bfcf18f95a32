// Episodes that wait in host memory answer as those that are resident.
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import type { Conversation, Engine, MemoryOptions } from "../../lib/index.js";
import { Sequence } from "../../lib/sequence.js";
import { expectError, load, recall, recallDialogue, rejection } from "../engine/support.js";
import { bagOfWords, epicache } from "./support.js";

let engine: Engine;
beforeAll(async () => {
  engine = await load(recall);
});
afterAll(() => engine.dispose());
afterEach(() => vi.restoreAllMocks());

const { text, questions } = recallDialogue(1000);

/** Two numbers of one KV head and the row's position, bf16. */
const ROW_BYTES = 2 * 64 * 2 + 4;
const LAYERS = 3;
const HEADS = 2;

const sum = (numbers: readonly number[]) => numbers.reduce((a, b) => a + b, 0);

/** Remembered and forgotten turns, on many topics; the answers depend on every row. */
async function play(conversation: Conversation, turns = 24): Promise<unknown[]> {
  const seen: unknown[] = [];
  for (let turn = 0; turn < turns; turn++) {
    const { question } = questions[(7 * turn) % questions.length] as (typeof questions)[number];
    // What is not remembered has to fit a tail that others filled.
    const remember = turn !== 1 && turn !== 4;
    const options = {
      maxTokens: remember ? 12 : 3,
      stopTokens: [],
      temperature: turn % 2,
      seed: turn,
      remember,
    };
    const { tokens } = await conversation.ask(question, options).result();
    const { rows, tokensSeen, episodes } = conversation.memory();
    seen.push({ tokens, rows, tokensSeen, active: episodes?.active });
  }
  return seen;
}

async function ingested(of: Engine, memory: MemoryOptions): Promise<Conversation> {
  const conversation = await of.conversation({ memory });
  await conversation.ingest(text);
  return conversation;
}

describe("episodes that wait in host memory", () => {
  it.each([1, 2, 3])("go on as if all were resident, %i at a time", async (resident) => {
    await using all = await ingested(engine, epicache);
    const expected = await play(all);
    expect(new Set(expected.map((turn) => (turn as { active: number }).active)).size).toBeGreaterThan(2);
    expect(all.memory().hostBytes).toBe(all.memory().episodes?.transcript.bytes);

    await using few = await ingested(engine, { ...epicache, resident });
    const list = () => few.memory().episodes?.list ?? [];
    expect(list().map((episode) => episode.resident)).toEqual([0, 1, 2, 3].map((i) => i >= 4 - resident));
    expect(await play(few)).toEqual(expected);
    expect(list().filter((episode) => episode.resident)).toHaveLength(resident);

    // To the byte: what is resident is in pages, what is not is rows and counts.
    const { bytes, hostBytes, reservedBytes } = few.memory();
    expect(bytes).toBe(sum(list().map((episode) => episode.bytes)));
    expect(engine.memory().pool.reserved).toBe(reservedBytes + all.memory().reservedBytes);
    expect(reservedBytes).toBeLessThan(all.memory().reservedBytes);
    for (const episode of list()) {
      const counts = 4 * (LAYERS * HEADS + LAYERS + episode.promptTokens);
      const copy = ROW_BYTES * sum(episode.rows.flat()) + counts;
      if (!episode.resident) expect([episode.bytes, episode.hostBytes]).toEqual([0, copy]);
      else expect(episode.hostBytes).toBeLessThanOrEqual(copy);
    }
    const { bytes: transcript = 0 } = few.memory().episodes?.transcript ?? {};
    expect(hostBytes).toBe(transcript + sum(list().map((episode) => episode.hostBytes)));
  });

  it("are made one after the other where the pool holds one of them", async () => {
    const memory = { ...epicache, budget: 256 };
    await using all = await ingested(engine, memory);
    const kvBytes = Math.ceil((1.5 * all.memory().reservedBytes) / 4);
    await using small = await load(recall, { kvBytes });
    await using conversation = await ingested(small, memory);
    expect(conversation.memory().episodes?.list.map(({ resident }) => resident)).toEqual([
      false,
      false,
      false,
      true,
    ]);
    expect(small.memory().pool.peak).toBeLessThanOrEqual(kvBytes);
    expect(conversation.memory().peakBytes).toBe(small.memory().pool.peak);
    expect(await play(conversation, 12)).toEqual(await play(all, 12));
    expect(conversation.memory().peakBytes).toBe(small.memory().pool.peak);
  });

  it("take turns in what other conversations leave of the pool", async () => {
    await using all = await ingested(engine, epicache);
    const kvBytes = Math.ceil((1.5 * all.memory().reservedBytes) / 4);
    await using small = await load(recall, { kvBytes });
    await using conversation = await ingested(small, epicache);
    const before = conversation.memory();
    // Another conversation takes what is left of the pool: the one that is resident stays, another cannot come.
    await using other = await small.conversation({ memory: { ...epicache, policy: "keydiff", budget: 16 } });
    await other.ingest("user : rex color is red .");
    expect(conversation.memory()).toEqual(before);
    expect(await play(conversation, 6)).toEqual(await play(all, 6));
  });

  it("are copied again only after a turn that stayed", async () => {
    await using conversation = await ingested(engine, { ...epicache, resident: 1 });
    const copies = vi.spyOn(Sequence.prototype, "image");
    const ask = async (index: number, remember: boolean) => {
      const { question } = questions[index] as (typeof questions)[number];
      await conversation.ask(question, { maxTokens: 4, remember }).result();
      return conversation.memory().episodes?.active;
    };
    // Every cache has been out once.
    for (let index = 0; index < questions.length; index++) await ask(index, false);
    const first = copies.mock.calls.length;
    for (let index = 0; index < questions.length; index++) await ask(index, false);
    expect(copies.mock.calls.length).toBe(first);
    const active = await ask(0, true);
    let index = 1;
    while ((await ask(index, false)) === active) index++;
    expect(copies.mock.calls.length).toBe(first + 1);
  });

  it("are copied while the question is embedded", async () => {
    let copying = () => Promise.resolve();
    const embed = async (texts: readonly string[]) => {
      await copying();
      return bagOfWords(texts);
    };
    await using conversation = await ingested(engine, { ...epicache, embed, resident: 2 });
    const ask = async (index: number) => {
      const { question } = questions[index] as (typeof questions)[number];
      await conversation.ask(question, { maxTokens: 4 }).result();
      return conversation.memory().episodes?.active as number;
    };
    const topics = new Map<number, number>();
    for (const index of questions.keys()) topics.set(await ask(index), index);
    expect(topics.size).toBeGreaterThan(2);
    const [a, b] = [...topics.values()] as [number, number];
    await ask(a);
    await ask(b);
    // The cache of a's episode has a new turn and is the older one of two.
    const copies = vi.spyOn(Sequence.prototype, "image");
    copying = () => vi.waitUntil(() => copies.mock.calls.length > 0).then(() => {});
    await ask(b);
    expect(copies).toHaveBeenCalledTimes(1);
  });

  it("stay where they are when the question is aborted", async () => {
    const controller = new AbortController();
    const reason = new Error("changed my mind");
    let abort = false;
    const embed = (texts: readonly string[]) => {
      if (abort) controller.abort(reason);
      return bagOfWords(texts);
    };
    await using conversation = await ingested(engine, { ...epicache, embed, resident: 1 });
    await using same = await ingested(engine, { ...epicache, embed: bagOfWords });
    const first = questions[0] as (typeof questions)[number];
    await conversation.ask(first.question, { maxTokens: 4 }).result();
    await same.ask(first.question, { maxTokens: 4 }).result();
    const { episodes, ...before } = conversation.memory();
    const { signal } = controller;
    abort = true;
    // A question of another episode than the resident one.
    const other = questions.findIndex(({ answer }) => answer.split(" ")[0] !== first.answer.split(" ")[0]);
    const { question } = questions[other] as (typeof questions)[number];
    expect(await rejection(conversation.ask(question, { signal }).result())).toBe(reason);
    abort = false;
    expect(conversation.memory().rows).toEqual(before.rows);
    expect(await play(conversation, 8)).toEqual(await play(same, 8));
  });

  it("go with the conversation", async () => {
    const conversation = await ingested(engine, { ...epicache, resident: 2 });
    await conversation.dispose();
    expect(engine.memory().pool).toMatchObject({ reserved: 0, used: 0 });
  });

  it("are as many as the option says, which has to be a number", async () => {
    for (const resident of [0, 1.5, "two"] as number[]) {
      const memory = { ...epicache, resident };
      await expectError(engine.conversation({ memory }), "ERR_INVALID_ARGUMENT", /^memory.resident must be/);
    }
  });
});
