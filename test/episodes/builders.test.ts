// The ways to make the caches of a history's episodes, against each other.
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { BuilderName, Engine, IngestProgress, MemoryOptions } from "../../lib/index.js";
import { expectError, load, recall, recallDialogue, rejection } from "../engine/support.js";
import { temporaryFolder } from "../snapshots/support.js";
import { bagOfWords, epicache } from "./support.js";

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

describe.each(["batched"] as const)("the %s builder", (builder) => {
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
