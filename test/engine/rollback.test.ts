import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Conversation, Engine, MemoryOptions } from "../../lib/index.js";
import { expectError, load, recall, recallDialogue } from "./support.js";

let engine: Engine;
beforeAll(async () => {
  engine = await load(recall);
});
afterAll(() => engine.dispose());

const prompt =
  "session pets . user : rex color is red . user : milo age is seven . user : rex color ? assistant :";
const encode = (text: string) => engine.tokenizer.encode(text);
const follow = { maxTokens: 12, stopTokens: [] };

/** What the model says behind ` user : milo age ? assistant :`. */
const nextAnswer = async (conversation: Conversation) =>
  (await conversation.ask("milo age ?", follow).result()).tokens;

/** The same when the stream never held anything but `text`. */
async function freshAnswer(text: string): Promise<readonly number[]> {
  const ids = encode(`${text} user : milo age ? assistant :`);
  return (await engine.generate(ids, follow).result()).tokens;
}

describe("a stop string", () => {
  it("is not part of the answer, and its tokens are forgotten", async () => {
    await using conversation = await engine.conversation();
    const answer = await conversation.ask(encode(prompt), { stop: [" blue", " is"], stopTokens: [] }).result();
    expect(answer).toMatchObject({ text: " rex color", finishReason: "stop" });
    expect(answer.usage).toEqual({ promptTokens: encode(prompt).length, completionTokens: 2 });
    expect(conversation.memory().tokensSeen).toBe(encode(`${prompt} rex color`).length);
    expect(await nextAnswer(conversation)).toEqual(await freshAnswer(`${prompt} rex color`));
  });

  it("may begin and end inside tokens", async () => {
    await using conversation = await engine.conversation();
    const texts: string[] = [];
    for await (const { text } of conversation.ask(encode(prompt), { stop: "lor is r", stopTokens: [] })) {
      texts.push(text);
    }
    expect(texts).toEqual([" rex", " co"]);
    // " co" was shown but is no token of the stream: it leads what comes next.
    expect(conversation.memory().tokensSeen).toBe(encode(`${prompt} rex`).length);
    await conversation.ingest("lor is");
    expect(conversation.memory().tokensSeen).toBe(encode(`${prompt} rex color is`).length);
    expect(await nextAnswer(conversation)).toEqual(await freshAnswer(`${prompt} rex color is`));
  });

  it("is held back only while it can still become one", async () => {
    await using conversation = await engine.conversation();
    const texts: string[] = [];
    for await (const { text } of conversation.ask(encode(prompt), { stop: " color was", maxTokens: 4 })) {
      texts.push(text);
    }
    expect(texts).toEqual([" rex", " color is", " red"]);
  });

  it("is found at the end of what was held back", async () => {
    await using conversation = await engine.conversation();
    const options = { stop: " red .", maxTokens: 5, stopTokens: [] };
    const answer = await conversation.ask(encode(prompt), options).result();
    expect(answer).toMatchObject({ text: " rex color is", finishReason: "stop" });
  });

  it("ends an answer at the same place when a tail was evicted in between", async () => {
    const memory: MemoryOptions = { policy: "keydiff", budget: 96, block: 64, tail: 16 };
    const ask = async (options: object) => {
      await using conversation = await engine.conversation({ memory });
      await conversation.ingest(recallDialogue(500).text);
      const answer = await conversation
        .ask("rex color ?", { maxTokens: 60, stopTokens: [], ...options })
        .result();
      return { answer, seen: conversation.memory().tokensSeen, next: await nextAnswer(conversation) };
    };
    const whole = await ask({});
    const ids = whole.answer.tokens;
    for (const count of [20, 35, 50]) {
      // A token that does not come earlier.
      const at = ids.findIndex((id, index) => index >= count && ids.indexOf(id) === index);
      if (at < 0) continue;
      const stop = engine.tokenizer.decode(ids.slice(at, at + 1));
      const cut = await ask({ stop });
      const short = await ask({ maxTokens: at });
      expect(cut.answer.tokens).toEqual(ids.slice(0, at));
      // There the last token has not run yet.
      expect(cut.seen).toBe(short.seen + 1);
      expect(cut.next).toEqual(short.next);
    }
    expect(new Set(ids).size).toBeGreaterThan(1);
  });
});

describe("leaving the loop early", () => {
  it.each([0, 30])("forgets what was not read (after %i ms)", async (delay) => {
    await using conversation = await engine.conversation();
    await conversation.ingest("session pets . user : rex color is red . user : milo age is seven .");
    const stream = conversation.ask("rex color ?", { maxTokens: 200, stopTokens: [] });
    let count = 0;
    for await (const { text } of stream) {
      count++;
      if (text.endsWith("color")) {
        // Meanwhile the engine goes on, perhaps to the end.
        await sleep(delay);
        break;
      }
    }
    expect(count).toBe(2);
    const text = `${prompt} rex color`;
    expect(conversation.memory().tokensSeen).toBe(encode(text).length);
    expect(await stream.result()).toMatchObject({ text: "rex color", finishReason: "abort" });
    expect(conversation.messages.at(-1)).toEqual({ role: "assistant", content: "rex color" });
    expect(await nextAnswer(conversation)).toEqual(await freshAnswer(text));
  });

  it("keeps everything when the answer was read to its end", async () => {
    await using conversation = await engine.conversation();
    await conversation.ingest("session pets . user : rex color is red . user : milo age is seven .");
    for await (const _ of conversation.ask("rex color ?"));
    expect(await nextAnswer(conversation)).toEqual(await freshAnswer(`${prompt} rex color is red .`));
  });
});

describe("remember: false", () => {
  it.each<MemoryOptions>([{ policy: "full" }, { policy: "keydiff", budget: 64, block: 64, tail: 48 }])(
    "leaves the memory as it was (%j)",
    async (memory) => {
      await using conversation = await engine.conversation({ memory });
      await conversation.ingest(recallDialogue(500).text);
      const { peakBytes: _, reservedBytes: __, ...before } = conversation.memory();
      const first = await conversation.ask("rex color ?", { remember: false }).result();
      await conversation.ask("milo age ?", { remember: false, maxTokens: 20, stopTokens: [] }).result();
      for await (const chunk of conversation.ask("rex age ?", { remember: false })) if (chunk) break;
      const { peakBytes: ___, reservedBytes: ____, ...after } = conversation.memory();
      expect(after).toEqual(before);
      expect(conversation.messages).toEqual([]);
      const again = await conversation.ask("rex color ?", { remember: false }).result();
      expect(again.tokens).toEqual(first.tokens);
    },
  );

  it("is refused with the arithmetic when question and answer do not fit the tail", async () => {
    const memory: MemoryOptions = { policy: "keydiff", budget: 64, block: 64, tail: 16 };
    await using conversation = await engine.conversation({ memory });
    await conversation.ingest(recallDialogue(500).text);
    const before = conversation.memory();
    await expectError(
      conversation.ask("rex color ?", { remember: false, maxTokens: 40 }).result(),
      "ERR_INVALID_ARGUMENT",
      /take up to 46 more, and it holds 16; raise memory.tail, lower maxTokens, or remember/,
    );
    expect(conversation.memory()).toEqual(before);
    // Without maxTokens the answer is as long as the tail allows.
    const answer = await conversation.ask("rex color ?", { remember: false, stopTokens: [] }).result();
    expect(answer).toMatchObject({ finishReason: "length", usage: { completionTokens: 10 } });
    expect(conversation.memory().tokensSeen).toBe(before.tokensSeen);
  });
});
