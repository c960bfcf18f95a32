// The ways to make the caches of a history's episodes, against each other.
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { BuilderName, Engine, IngestProgress, MemoryOptions } from "../../lib/index.js";
import { expectError, load, recall, recallDialogue, rejection } from "../engine/support.js";
import { temporaryFolder } from "../snapshots/support.js";
import { bagOfWords, epicache, rightAnswers } from "./support.js";

const { text, questions } = recallDialogue(1000);
const folder = temporaryFolder();
let engine: Engine;
beforeAll(async () => {
  engine = await load(recall);
});
afterAll(() => engine.dispose());

const built = (builder: BuilderName, more: MemoryOptions = {}) => ({ ...epicache, builder, ...more });

describe("the batched builder", () => {
  it("makes the caches of the paper's, and forwards as many tokens", async () => {
    await using one = await engine.conversation({ memory: built("per-episode") });
    await one.ingest(text);
    await using batch = await engine.conversation({ memory: built("batched") });
    const told: IngestProgress[] = [];
    const { tokens } = await batch.ingest(text, { onProgress: (progress) => told.push(progress) });
    const blocks = Math.ceil(tokens / 128);
    expect(told).toEqual(
      Array.from({ length: blocks }, (_, i) => ({
        tokens: 4 * Math.min((i + 1) * 128, tokens),
        total: 4 * tokens,
      })),
    );

    const { episodes, peakBytes, ...memory } = batch.memory();
    const { episodes: expected, peakBytes: lower, ...rest } = one.memory();
    expect(memory).toEqual(rest);
    expect(episodes).toEqual({ ...expected, builder: "batched" });
    expect(lower).toBeLessThan(peakBytes);
    expect(peakBytes).toBeLessThanOrEqual(memory.reservedBytes);
    for (const { question } of questions.slice(0, 8)) {
      const options = { maxTokens: 12, stopTokens: [], temperature: 1, seed: 3 };
      const got = await batch.ask(question, options).result();
      expect(got.tokens).toEqual((await one.ask(question, options).result()).tokens);
    }
  });
});

describe("the shared builder", () => {
  it("answers as the paper's does at a fraction of the tokens, and says what that takes", async () => {
    const right = async (builder: BuilderName) => {
      await using conversation = await engine.conversation({ memory: built(builder) });
      await conversation.ingest(text);
      return { answers: await rightAnswers(conversation, questions), memory: conversation.memory() };
    };
    const expected = await right("per-episode");
    const { answers, memory } = await right("shared");
    expect(answers).toBeGreaterThanOrEqual(expected.answers - Math.ceil(0.1 * questions.length));

    const { episodes, ...held } = memory;
    const list = episodes?.list ?? [];
    const tokens = list[0]?.tokensSeen ?? 0;
    const blocks = Math.ceil(tokens / 128);
    const prompts = list.reduce((sum, { promptTokens }) => sum + promptTokens, 0);
    expect(episodes?.forwardedTokens).toBe(tokens + blocks * prompts);
    expect(held.rows).toEqual(expected.memory.rows.map(() => expect.any(Array)));
    for (const { rows, tokensSeen } of list) {
      expect(tokensSeen).toBe(tokens);
      for (const heads of rows) expect(heads.reduce((a, b) => a + b, 0)).toBe(2 * 128);
    }
    // Pages of 16 rows with bf16 keys and values, and positions: 256 rows a head, the block and the longest prompt.
    const { layers, kvHeads, headDim } = engine.info();
    const longest = Math.max(...list.map(({ promptTokens }) => promptTokens));
    const pages = layers * ((256 * kvHeads) / 16 + kvHeads) + kvHeads * Math.ceil((128 + longest) / 16);
    expect(episodes?.workingBytes).toBe(pages * 16 * (2 * headDim * 2 + 4));
    expect(held.reservedBytes).toBe(expected.memory.reservedBytes);
    expect(held.peakBytes).toBeGreaterThan(expected.memory.bytes);
    expect(held.peakBytes).toBeLessThanOrEqual(held.reservedBytes + (episodes?.workingBytes ?? 0));
  });

  it("reads a history once where no episode has a prompt, and its own utterances tell the selections apart", async () => {
    const memory = { ...built("shared"), policy: "episodic", representatives: 0, budget: 64 } as const;
    await using conversation = await engine.conversation({ memory });
    const { tokens } = await conversation.ingest(text);
    const { episodes, promptTokens } = conversation.memory();
    expect({ forwarded: episodes?.forwardedTokens, promptTokens }).toEqual({
      forwarded: tokens,
      promptTokens: 0,
    });
    for (const { rows } of episodes?.list ?? []) {
      for (const heads of rows) expect(heads.reduce((a, b) => a + b, 0)).toBe(2 * 64);
    }
    expect((await rightAnswers(conversation, questions)) / questions.length).toBeGreaterThanOrEqual(0.9);
    const { layers, kvHeads, headDim } = engine.info();
    const pages = layers * ((4 * 64 * kvHeads) / 16 + kvHeads) + kvHeads * (128 / 16);
    expect(episodes?.workingBytes).toBe(pages * 16 * (2 * headDim * 2 + 4));
  });

  it("tells of each block once", async () => {
    await using conversation = await engine.conversation({ memory: built("shared") });
    const told: IngestProgress[] = [];
    const { tokens } = await conversation.ingest(text, { onProgress: (progress) => told.push(progress) });
    expect(told).toEqual(
      Array.from({ length: Math.ceil(tokens / 128) }, (_, i) => ({
        tokens: Math.min((i + 1) * 128, tokens),
        total: tokens,
      })),
    );
    expect(engine.memory().pool.reserved).toBe(conversation.memory().reservedBytes);
  });

  it("makes one episode's cache as the paper does, whatever the union may hold", async () => {
    await using one = await engine.conversation({ memory: built("per-episode", { episodes: 1 }) });
    await one.ingest(text);
    for (const union of [128, 500, [128, 200, 300]]) {
      await using shared = await engine.conversation({ memory: built("shared", { episodes: 1, union }) });
      await shared.ingest(text);
      expect(shared.memory().rows).toEqual(one.memory().rows);
      for (const { question } of questions.slice(0, 4)) {
        const options = { maxTokens: 20, stopTokens: [], remember: false };
        const got = await shared.ask(question, options).result();
        expect(got.tokens).toEqual((await one.ask(question, options).result()).tokens);
      }
    }
  });

  it("is refused with its arithmetic when the working cache does not fit", async () => {
    await using small = await load(recall, { kvBytes: "2MiB" });
    await using conversation = await small.conversation({
      memory: built("shared", { budget: 64, union: 3000 }),
    });
    let blocks = 0;
    const ingest = conversation.ingest(text, { onProgress: () => blocks++ });
    const message =
      /^the working cache of 4 sequences needs \d+ pages of kept rows \(budget M = 3000 in 3 layers/;
    await expectError(ingest, "ERR_OUT_OF_MEMORY", message);
    expect(blocks).toBe(0);
    expect(small.memory().pool.reserved).toBe(0);
  });

  const wrong: [MemoryOptions, RegExp][] = [
    [{ union: 127 }, /^memory.union must be at least the budget of each layer \(128 in layer 0\), got 127$/],
    [{ union: [200, 200] }, /^memory.union must be a number or one for each of the model's 3 layers/],
    [{ union: [200, 1.5, 200] }, /^memory.union\[1\] must be an integer/],
    [{ builder: "batched", union: 200 }, /^memory.union must be left out unless memory.builder is "shared"/],
  ];
  it.each(wrong)("refuses %j", async (options, message) => {
    const opening = engine.conversation({ memory: built("shared", options) });
    await expectError(opening, "ERR_INVALID_ARGUMENT", message);
  });
});

describe.each(["batched", "shared"] as const)("the %s builder", (builder) => {
  it("leaves nothing of itself when it is aborted", async () => {
    await using conversation = await engine.conversation({ memory: built(builder) });
    const controller = new AbortController();
    const reason = new Error("changed my mind");
    let blocks = 0;
    const onProgress = () => {
      blocks++;
      if (blocks === 2) controller.abort(reason);
    };
    const { signal } = controller;
    expect(await rejection(conversation.ingest(text, { signal, onProgress }))).toBe(reason);
    expect(blocks).toBeLessThan(7);
    expect(engine.memory().pool).toMatchObject({ reserved: 0, used: 0 });
    expect(conversation.memory()).toMatchObject({ tokensSeen: 0, bytes: 0 });
    await conversation.ingest(text);
    expect(conversation.memory().episodes?.list).toHaveLength(4);
  });

  it("is refused before the work when its episodes do not fit", async () => {
    await using small = await load(recall, { kvBytes: "2MiB" });
    await using conversation = await small.conversation({ memory: built(builder, { budget: 256 }) });
    let blocks = 0;
    const ingest = conversation.ingest(text, { onProgress: () => blocks++ });
    await expectError(ingest, "ERR_OUT_OF_MEMORY", /^episode 3 of 4: .* pages/);
    expect(blocks).toBe(0);
    expect(small.memory().pool.reserved).toBe(0);
  });

  it("makes what a snapshot can hold", async () => {
    const path = join(folder, `${builder}.snapshot`);
    await using original = await engine.conversation({ memory: built(builder) });
    await original.ingest(text);
    await original.ask(questions[0]?.question ?? "", { maxTokens: 6 }).result();
    await original.save(path);
    await using other = await load(recall);
    await using restored = await other.restore(path, { embed: bagOfWords });
    expect(restored.memory()).toEqual(original.memory());
    expect(restored.memory().episodes?.builder).toBe(builder);
    for (const { question } of questions.slice(1, 5)) {
      const options = { maxTokens: 12, stopTokens: [] };
      const got = await restored.ask(question, options).result();
      expect(got.tokens).toEqual((await original.ask(question, options).result()).tokens);
    }
  });
});

it("a builder that there is not is refused", async () => {
  const memory = { ...epicache, builder: "none" } as unknown as MemoryOptions;
  await expectError(engine.conversation({ memory }), "ERR_INVALID_ARGUMENT", /^memory.builder must be one of/);
});
