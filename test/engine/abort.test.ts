import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Engine } from "../../lib/index.js";
import { expectError, load, recall, recallDialogue, rejection } from "./support.js";

let engine: Engine;
beforeAll(async () => {
  engine = await load(recall);
});
afterAll(() => engine.dispose());

const facts = "session pets . user : rex color is red .";
const long = () => recallDialogue(2000).text;
/** An answer that goes on for thousands of tokens, as far as the model's positions reach. */
const endless = { maxTokens: 1_000_000, stopTokens: [] };

describe("a signal that is aborted already", () => {
  it("keeps everything from starting", async () => {
    const reason = new Error("too late");
    const signal = AbortSignal.abort(reason);
    await using conversation = await engine.conversation();
    const before = engine.memory();
    for (const call of [
      () => load(recall, { signal }),
      () => engine.conversation({ signal }),
      () => conversation.ingest(facts, { signal }),
      () => conversation.ask("rex color ?", { signal }).result(),
      () => engine.generate(facts, { signal }).result(),
      () => engine.score(facts, { signal }),
      () => engine.embed([facts], { signal }),
    ]) {
      expect(await rejection(call())).toBe(reason);
    }
    expect(engine.memory()).toEqual(before);
    expect(conversation.memory().tokensSeen).toBe(0);
  });
});

describe("an abort on the way", () => {
  it("keeps the blocks that an ingest told of", async () => {
    const controller = new AbortController();
    await using conversation = await engine.conversation({
      memory: { policy: "keydiff", budget: 64, block: 32 },
    });
    let told = 0;
    const onProgress = ({ tokens }: { tokens: number }) => {
      told = tokens;
      if (tokens >= 96) controller.abort("enough");
    };
    const history = Array(3).fill(long()).join(" ");
    const ingest = conversation.ingest(history, { onProgress, signal: controller.signal });
    expect(await rejection(ingest)).toBe("enough");
    const { tokensSeen } = conversation.memory();
    expect(tokensSeen).toBe(told);
    expect(tokensSeen % 32).toBe(0);
    // The engine may be ahead of this thread, but not by all of the history.
    expect(tokensSeen).toBeLessThan(6000);
    await conversation.ingest(` ${facts}`);
    expect((await conversation.ask("rex color ?").result()).text).toBe("rex color is red");
  });

  it("ends an answer, and what was read stays", async () => {
    const controller = new AbortController();
    await using conversation = await engine.conversation();
    await conversation.ingest(facts);
    const { signal } = controller;
    const stream = conversation.ask("rex color ?", { ...endless, signal });
    let text = "";
    const read = async () => {
      for await (const chunk of stream) {
        text += chunk.text;
        if (text === "rex color is") controller.abort();
      }
    };
    expect(await rejection(read())).toBe(signal.reason);
    expect(await rejection(stream.result())).toBe(signal.reason);
    expect(text).toBe("rex color is");
    expect(conversation.messages.at(-1)).toEqual({ role: "assistant", content: "rex color is" });
    const seen = engine.tokenizer.encode(`${facts} user : rex color ? assistant : rex color is`).length;
    expect(conversation.memory().tokensSeen).toBe(seen);
    expect((await conversation.ask("rex color ?").result()).text).toBe("rex color is red");
  });

  it("forgets a question whose answer nobody began to read", async () => {
    await using conversation = await engine.conversation();
    await conversation.ingest(facts);
    const before = conversation.memory().tokensSeen;
    const controller = new AbortController();
    const answer = conversation.ask(long(), { ...endless, signal: controller.signal }).result();
    setTimeout(() => controller.abort("never mind"), 5);
    expect(await rejection(answer)).toBe("never mind");
    const { tokensSeen } = conversation.memory();
    // Everything, or, as the whole answer counts as read, nothing of it once there is some.
    if (conversation.messages.length === 0) expect(tokensSeen).toBe(before);
    else expect(tokensSeen).toBeGreaterThan(before);
    expect((await conversation.ask("rex color ?").result()).text).toBe("rex color is red");
  });

  it("takes a call out of the queue", async () => {
    await using conversation = await engine.conversation();
    const controller = new AbortController();
    const first = conversation.ingest(facts);
    const second = conversation.ask("rex color ?", { signal: controller.signal }).result();
    const third = conversation.ask("rex color ?").result();
    controller.abort("changed my mind");
    expect(await rejection(second)).toBe("changed my mind");
    await first;
    expect((await third).text).toBe("rex color is red");
    expect(conversation.messages).toHaveLength(2);
  });

  it("takes a request out of the engine's queue, while another one runs", async () => {
    await using running = await engine.conversation();
    await using waiting = await engine.conversation();
    await waiting.ingest(facts);
    const before = waiting.memory();
    const first = new AbortController();
    const holder = running.ask("rex color ?", { ...endless, signal: first.signal });
    let ended = false;
    const result = holder.result().finally(() => {
      ended = true;
    });
    const stream = holder[Symbol.asyncIterator]();
    await stream.next();

    const controller = new AbortController();
    const { signal } = controller;
    const behind = [
      waiting.ask("rex color ?", { signal }).result(),
      engine.generate(facts, { signal }).result(),
      engine.conversation({ signal }),
      engine.score(facts, { signal }),
      engine.embed([facts], { signal }),
    ];
    controller.abort("no time");
    for (const call of behind) expect(await rejection(call as Promise<unknown>)).toBe("no time");
    expect(ended, "the answer in front goes on").toBe(false);
    expect(waiting.memory()).toEqual(before);

    first.abort();
    await rejection(result);
    expect((await waiting.ask("rex color ?").result()).text).toBe("rex color is red");
  });

  it("ends loading", async () => {
    const controller = new AbortController();
    const onProgress = () => controller.abort("stop");
    expect(await rejection(load(recall, { signal: controller.signal, onProgress }))).toBe("stop");
  });

  it("ends scoring, and the engine goes on", async () => {
    const controller = new AbortController();
    const score = engine.score(long(), { signal: controller.signal });
    controller.abort("stop");
    expect(await rejection(score)).toBe("stop");
    expect((await engine.score(facts)).tokens.length).toBeGreaterThan(5);
  });

  it("changes nothing when all is done", async () => {
    const controller = new AbortController();
    await using conversation = await engine.conversation();
    await conversation.ingest(facts, { signal: controller.signal });
    const answer = await conversation.ask("rex color ?", { signal: controller.signal }).result();
    controller.abort();
    expect(answer.text).toBe("rex color is red");
    expect((await conversation.ask("rex color ?").result()).text).toBe("rex color is red");
  });
});

describe("an error in a callback", () => {
  it("ends the call with it", async () => {
    await using conversation = await engine.conversation();
    const thrown = new Error("my own fault");
    const onProgress = () => {
      throw thrown;
    };
    expect(await rejection(conversation.ingest(facts, { onProgress }))).toBe(thrown);
    expect(await rejection(load(recall, { onProgress }))).toBe(thrown);
    expect((await conversation.ask("rex color ?").result()).text).toBe("rex color is red");
  });
});

describe("dispose", () => {
  it("rejects what a conversation does and gives its memory back", async () => {
    const before = engine.memory().pool.reserved;
    const conversation = await engine.conversation({ memory: { policy: "keydiff", budget: 64 } });
    expect(engine.memory().pool.reserved).toBeGreaterThan(before);
    const disposed = /^the conversation was disposed of$/;
    const running = expectError(conversation.ingest(long()), "ERR_DISPOSED", disposed);
    const waiting = expectError(conversation.ask("rex color ?").result(), "ERR_DISPOSED", disposed);
    await Promise.all([conversation.dispose(), conversation.dispose(), running, waiting]);
    await expectError(conversation.ingest(facts), "ERR_DISPOSED", disposed);
    expect(() => conversation.memory()).toThrow(disposed);
    expect(engine.memory().pool.reserved).toBe(before);
  });

  it("rejects what an engine does", async () => {
    const own = await load(recall);
    const conversation = await own.conversation();
    await conversation.ingest(facts);
    const disposed = /^the engine was disposed of$/;
    const calls = [
      conversation.ingest(long()),
      conversation.ask("rex color ?").result(),
      own.score(long()),
      own.embed([facts]),
      own.generate(facts).result(),
    ].map((call) => expectError(call, "ERR_DISPOSED", disposed));
    await Promise.all([own.dispose(), own.dispose(), ...calls]);
    await expectError(own.score(facts), "ERR_DISPOSED", disposed);
    await expectError(own.conversation(), "ERR_DISPOSED", disposed);
    await expectError(conversation.ask("rex color ?").result(), "ERR_DISPOSED", disposed);
    expect(() => own.memory()).toThrow(disposed);
    expect(() => conversation.memory()).toThrow(disposed);
    await conversation.dispose();
    expect(own.info().layers).toBe(3);
  });
});
