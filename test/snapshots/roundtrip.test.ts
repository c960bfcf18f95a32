// A conversation that was saved and restored goes on as if it had never left.
import { cpSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Engine, type MemoryOptions } from "../../lib/index.js";
import { writeSnapshot } from "../../lib/snapshots/writer.js";
import { answerOf, expectError, fixtures, load, recall, recallDialogue, rejection } from "../engine/support.js";
import { goOn, policies, temporaryFolder } from "./support.js";

const folder = temporaryFolder();
const dialogue = recallDialogue(1000);
let engine: Engine;
let other: Engine;
beforeAll(async () => {
  engine = await load(recall);
  other = await load(recall);
});
afterAll(() => Promise.all([engine.dispose(), other.dispose()]));

const nothing = { reserved: 0, used: 0 };

describe("a restored conversation", () => {
  it.each(policies)("goes on as the original does under %s", async (name, memory) => {
    const path = join(folder, `${name}.snapshot`);
    const original = await engine.conversation({ memory });
    await original.ingest(dialogue.text);
    await original.ask("rex color ?", { maxTokens: 9, stopTokens: [] }).result();
    const { bytes } = await original.save(path);
    expect(bytes).toBe(statSync(path).size);

    const restored = await other.restore(path);
    expect(restored.memory()).toEqual(original.memory());
    expect(restored.messages).toEqual(original.messages);
    const { reserved, used } = other.memory().pool;
    expect([reserved, used]).toEqual([original.memory().reservedBytes, original.memory().bytes]);

    const beside = await engine.restore(path);
    const expected = await goOn(original);
    expect(await goOn(restored)).toEqual(expected);
    expect(await goOn(beside)).toEqual(expected);

    // What has gone on is saved as well as what was ingested.
    await restored.save(path);
    const again = await other.restore(path);
    await restored.ingest(dialogue.text.slice(0, 600));
    await again.ingest(dialogue.text.slice(0, 600));
    expect(await goOn(again)).toEqual(await goOn(restored));
    await Promise.all([original, restored, beside, again].map((conversation) => conversation.dispose()));
    expect([engine.memory().pool, other.memory().pool]).toMatchObject([nothing, nothing]);
  });

  it("answers from a history that only the file has", async () => {
    const path = join(folder, "facts.snapshot");
    const { text, questions } = recallDialogue(500);
    const original = await engine.conversation();
    await original.ingest(text);
    await original.save(path);
    await original.dispose();
    await using restored = await other.restore(path);
    for (const { question, answer } of questions.slice(0, 6)) {
      expect((await answerOf(restored.ask(question))).text).toBe(answer);
    }
  });

  it("may be empty, or have only a tail", async () => {
    const path = join(folder, "empty.snapshot");
    for (const [, memory] of policies) {
      await using original = await engine.conversation({ memory });
      await original.save(path);
      await using empty = await other.restore(path);
      expect(empty.memory()).toEqual(original.memory());
      const options = { maxTokens: 3, stopTokens: [] };
      const [first, same] = await Promise.all(
        [original, empty].map((each) => answerOf(each.ask("rex ?", options))),
      );
      expect(same?.tokens).toEqual(first?.tokens);
      await original.save(path);
      await using tail = await other.restore(path);
      expect(await goOn(tail)).toEqual(await goOn(original));
    }
  });

  it("keeps a system prompt that waits for its turn, and turns in a chat format", async () => {
    const path = join(folder, "chat.snapshot");
    await using chat = await load(join(fixtures, "llama"));
    await using original = await chat.conversation({ system: "Be brief." });
    const options = { maxTokens: 4, stopTokens: [] };
    for (const question of ["Hello", "Go on", "And then?"]) {
      await original.save(path);
      await using restored = await chat.restore(path);
      expect(restored.messages).toEqual(original.messages);
      const [a, b] = [
        await answerOf(original.ask(question, options)),
        await answerOf(restored.ask(question, options)),
      ];
      expect([b.tokens, b.usage]).toEqual([a.tokens, a.usage]);
      expect(restored.messages).toEqual(original.messages);
    }
    // An answer that was broken off, and messages with members of their own.
    for await (const _ of original.ask("Once more", options)) break;
    await original.ingest({ role: "user", content: "One\ud800 lone half", name: "Eve" });
    await original.save(path);
    await using restored = await chat.restore(path);
    expect(restored.messages).toEqual(original.messages);
    expect((await answerOf(restored.ask("So?", options))).tokens).toEqual(
      (await answerOf(original.ask("So?", options))).tokens,
    );
  });

  it("may be of bf16, and go from one device to another", async () => {
    const path = join(folder, "devices.snapshot");
    const directory = join(fixtures, "llama_bf16");
    await using reference = await Engine.load(directory, { device: "reference", kvBytes: "8MiB" });
    await using cpu = await Engine.load(directory, { device: "cpu", kvBytes: "8MiB" });
    const memory: MemoryOptions = { policy: "keydiff", budget: 12, block: 16, tail: 16 };
    await using original = await reference.conversation({ memory });
    await original.ingest(Array.from({ length: 60 }, (_, i) => 3 + ((i * 7) % 50)));
    await original.save(path);
    await using here = await reference.restore(path);
    await using there = await cpu.restore(path);
    expect(there.memory()).toEqual(original.memory());
    const options = { maxTokens: 20, stopTokens: [] };
    const expected = await answerOf(original.ask([5, 6], options));
    expect((await answerOf(here.ask([5, 6], options))).tokens).toEqual(expected.tokens);
    expect((await answerOf(there.ask([5, 6], options))).tokens).toHaveLength(20);
  });
});

describe("save", () => {
  it("waits for the calls before it", async () => {
    const path = join(folder, "queue.snapshot");
    await using conversation = await engine.conversation();
    const ingest = conversation.ingest(dialogue.text);
    const saved = conversation.save(path);
    const answer = conversation.ask("rex color ?").result();
    const [{ tokens }] = await Promise.all([ingest, saved, answer]);
    await using restored = await other.restore(path);
    expect(restored.memory().tokensSeen).toBe(tokens);
    expect(restored.messages).toEqual([]);
  });

  it("replaces a file as a whole, and leaves it and its folder alone when it is aborted", async () => {
    const path = join(folder, "whole", "one.snapshot");
    await using conversation = await engine.conversation();
    await expectError(
      conversation.save(path),
      "ERR_INVALID_ARGUMENT",
      /one\.snapshot: cannot be saved \(ENOENT/,
    );
    cpSync(join(fixtures, "llama", "config.json"), path);
    await conversation.ingest(dialogue.text);
    const reason = new Error("changed my mind");
    const before = readFileSync(path);
    for (const delay of [0, 0, 1, 1, 2, 3]) {
      const controller = new AbortController();
      const save = conversation.save(path, { signal: controller.signal });
      if (delay === 0) controller.abort(reason);
      else setTimeout(() => controller.abort(reason), delay);
      const outcome = await save.catch((error: unknown) => error);
      if (outcome === reason) expect(readFileSync(path)).toEqual(before);
      else break; // it was faster than the timer
    }
    await conversation.save(path);
    expect(readdirSync(join(folder, "whole"))).toEqual(["one.snapshot"]);
    await using restored = await other.restore(path);
    expect(restored.memory()).toEqual(conversation.memory());
    const first = readFileSync(path);
    await restored.save(path);
    expect(readFileSync(path).equals(first)).toBe(true);
  });

  it("leaves the old file alone when it is aborted in the middle of the new one", async () => {
    const place = join(folder, "middle");
    mkdirSync(place);
    const path = join(place, "one.snapshot");
    writeFileSync(path, "old");
    const controller = new AbortController();
    const reason = new Error("changed my mind");
    let unfinished: string[] = [];
    async function* sections() {
      yield new Uint8Array(1000);
      unfinished = readdirSync(place);
      controller.abort(reason);
      yield new Uint8Array(1000);
    }
    expect(await rejection(writeSnapshot(path, "{}", sections(), controller.signal))).toBe(reason);
    expect(unfinished).toHaveLength(2);
    expect(readdirSync(place)).toEqual(["one.snapshot"]);
    expect(readFileSync(path, "utf8")).toBe("old");
  });

  it("is refused where it cannot be", async () => {
    const conversation = await engine.conversation();
    await expectError(
      conversation.save(""),
      "ERR_INVALID_ARGUMENT",
      /^path must be a string that is not empty/,
    );
    await expectError(conversation.save(folder), "ERR_INVALID_ARGUMENT", /: cannot be saved \(E/);
    await conversation.dispose();
    await expectError(
      conversation.save(join(folder, "late")),
      "ERR_DISPOSED",
      /^the conversation was disposed/,
    );
  });
});

describe("restore", () => {
  const path = join(folder, "some.snapshot");
  beforeAll(async () => {
    await using conversation = await engine.conversation({ memory: { policy: "keydiff", budget: 64 } });
    await conversation.ingest(dialogue.text);
    await conversation.save(path);
  });

  it("says what is wrong with the path", async () => {
    await expectError(other.restore(""), "ERR_INVALID_ARGUMENT", /^path must be/);
    await expectError(
      other.restore(join(folder, "none")),
      "ERR_INVALID_ARGUMENT",
      /none: cannot be read \(ENOENT/,
    );
    await expectError(
      other.restore(folder),
      "ERR_INVALID_ARGUMENT",
      /cannot be read \(it is not a regular file\)$/,
    );
  });

  it("can be aborted, and leaves nothing of it", async () => {
    const reason = new Error("changed my mind");
    for (const delay of [0, 1, 2, 3, 5, 8]) {
      const controller = new AbortController();
      const restoring = other.restore(path, { signal: controller.signal });
      if (delay === 0) controller.abort(reason);
      else setTimeout(() => controller.abort(reason), delay);
      const outcome = await restoring.catch((error: unknown) => error);
      if (outcome !== reason) {
        await (outcome as AsyncDisposable)[Symbol.asyncDispose]();
        expect(delay).toBeGreaterThan(0);
      }
      expect(other.memory().pool).toMatchObject(nothing);
    }
    const aborted = other.restore(path, { signal: AbortSignal.abort(reason) });
    expect(await rejection(aborted)).toBe(reason);
  });

  it("refuses another model, and the same with other files", async () => {
    await using chat = await load(join(fixtures, "llama"));
    await expectError(
      chat.restore(path),
      "ERR_INVALID_ARGUMENT",
      /was saved with another model \(LlamaForCausalLM/,
    );
    const copy = join(folder, "copy");
    cpSync(recall, copy, { recursive: true });
    const same = await load(copy);
    await (await same.restore(path)).dispose();
    await same.dispose();
    writeFileSync(join(copy, "config.json"), `${readFileSync(join(copy, "config.json"), "utf8")}\n`);
    await using changed = await load(copy);
    await expectError(changed.restore(path), "ERR_INVALID_ARGUMENT", /load the model that it was saved with$/);
    expect([chat.memory().pool, changed.memory().pool]).toMatchObject([nothing, nothing]);
  });

  it("refuses what its pool cannot hold", async () => {
    await using small = await load(recall, { kvBytes: "256KiB" });
    await expectError(small.restore(path), "ERR_OUT_OF_MEMORY", /this conversation needs .* pages/);
    expect(small.memory().pool).toMatchObject(nothing);
  });

  it("ends with its engine", async () => {
    const short = await load(recall);
    const refused = expectError(short.restore(path), "ERR_DISPOSED", /^the engine was disposed of$/);
    await short.dispose();
    await refused;
    await expectError(short.restore(path), "ERR_DISPOSED", /^the engine was disposed of$/);
  });
});
