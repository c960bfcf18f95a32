import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Engine, MemoryOptions } from "../../lib/index.js";
import { expectError, fixtures, load, recall, recallDialogue, textOf } from "./support.js";

let engine: Engine;
beforeAll(async () => {
  engine = await load(recall);
});
afterAll(() => engine.dispose());

const patched: MemoryOptions = {
  policy: "patched-prompt",
  budget: 192,
  block: 128,
  tail: 64,
  prompt: " user : what was said before ?",
};

describe("a conversation", () => {
  it("answers from its history and remembers the turns", async () => {
    const { text, questions } = recallDialogue(500);
    await using conversation = await engine.conversation();
    const { tokens } = await conversation.ingest(text);
    expect(tokens).toBe(engine.tokenizer.encode(text).length);
    expect(conversation.memory().tokensSeen).toBe(tokens);
    for (const { question, answer } of questions.slice(0, 5)) {
      expect(await textOf(conversation.ask(question))).toBe(answer);
    }
    expect(conversation.messages.slice(0, 2)).toEqual([
      { role: "user", content: questions[0]?.question },
      { role: "assistant", content: `${questions[0]?.answer} .` },
    ]);
  });

  it("holds one stream that equals the template's rendering", async () => {
    await using conversation = await engine.conversation();
    const messages = [
      { role: "user", content: "rex color is red ." },
      { role: "assistant", content: "ok ." },
    ];
    await conversation.ingest(messages);
    const first = await conversation.ask("rex color ?").result();
    expect(first.text).toBe("rex color is red");
    await conversation.ingest([{ role: "user", content: "milo age is seven ." }]);
    const second = await conversation.ask("milo age ?").result();
    // The same conversation as one prompt: the same tokens follow.
    const text =
      "<|bos|> user : rex color is red . assistant : ok . user : rex color ? assistant : rex color is red ." +
      " user : milo age is seven . user : milo age ? assistant :";
    const ids = engine.tokenizer.encode(text, { addSpecialTokens: false });
    const alone = await engine.generate(ids).result();
    expect(second.tokens).toEqual(alone.tokens);
    expect(second.text).toBe("milo age is seven");
    expect(conversation.memory().tokensSeen).toBe(ids.length + second.tokens.length);
  });

  it("takes messages, text and token ids", async () => {
    await using conversation = await engine.conversation();
    const ids = engine.tokenizer.encode("session pets . user : rex color is red .");
    await conversation.ingest(ids);
    await conversation.ingest({ role: "user", content: "milo age is seven ." });
    const question = engine.tokenizer.encode(" user : rex color ? assistant :", { addSpecialTokens: false });
    expect((await conversation.ask(question).result()).text).toBe(" rex color is red");
    expect((await conversation.ask([{ role: "user", content: "milo age ?" }]).result()).text).toBe(
      "milo age is seven",
    );
  });

  it("keeps what it saw in a bounded memory several times smaller than its history", async () => {
    const { text, questions } = recallDialogue(1000);
    await using conversation = await engine.conversation({ memory: patched });
    const reserved = conversation.memory().reservedBytes;
    const progress: { tokens: number; total: number }[] = [];
    const { tokens } = await conversation.ingest(text, { onProgress: (told) => progress.push(told) });
    expect(progress).toEqual(
      Array.from({ length: Math.ceil(tokens / 128) }, (_, i) => ({
        tokens: Math.min((i + 1) * 128, tokens),
        total: tokens,
      })),
    );
    const memory = conversation.memory();
    expect(memory.policy).toBe("patched-prompt");
    expect(memory.tokensSeen).toBe(tokens);
    for (const heads of memory.rows) expect(heads.reduce((a, b) => a + b, 0)).toBe(192 * heads.length);
    expect(memory.peakBytes).toBeLessThanOrEqual(memory.reservedBytes);
    expect(memory.reservedBytes).toBe(reserved);
    for (const { question } of questions.slice(0, 8))
      await conversation.ask(question, { maxTokens: 8 }).result();
    const after = conversation.memory();
    expect(after.peakBytes).toBeLessThanOrEqual(reserved);
    for (const heads of after.rows) for (const rows of heads) expect(rows).toBeLessThanOrEqual(2 * 192 + 64);
  });

  it.each(["streaming", "snapkv", "snapkv-refed", "tova", "keydiff", "kvzip"] as const)(
    "runs with policy %s",
    async (policy) => {
      await using conversation = await engine.conversation({
        memory: { policy, budget: [64, 48, 80], block: 96, tail: 32, level: "head" },
      });
      const { tokens } = await conversation.ingest(recallDialogue(500).text);
      expect(conversation.memory().rows).toEqual([
        [64, 64],
        [48, 48],
        [80, 80],
      ]);
      // More than a tail: it is evicted while the answer goes on.
      const answer = await conversation.ask("rex color ?", { maxTokens: 70, stopTokens: [] }).result();
      expect(answer.tokens).toHaveLength(70);
      expect(conversation.memory().tokensSeen).toBe(tokens + answer.usage.promptTokens + 69);
    },
  );

  it("keeps the same rows in every head with policy tova, whatever the level", async () => {
    await using conversation = await engine.conversation({
      memory: { policy: "tova", budget: [64, 48, 80], block: 96, tail: 32, level: "pair" },
    });
    await conversation.ingest(recallDialogue(500).text);
    expect(conversation.memory().rows).toEqual([
      [64, 64],
      [48, 48],
      [80, 80],
    ]);
  });

  it.each([
    [undefined, " user : Repeat the previous part of our conversation, word for word. assistant :"],
    [" user : again", " user : again"],
    [[], ""],
  ])("scores a block by its repetition behind %j with policy kvzip", async (prompt, text) => {
    const tokens = engine.tokenizer.encode(recallDialogue(500).text).slice(0, 96);
    const instruction = engine.tokenizer.encode(text, { addSpecialTokens: false });
    const common = { budget: 40, block: 96, tail: 32 };
    const memories = [];
    const prompts = [];
    for (const memory of [
      { ...common, policy: "kvzip", ...(prompt === undefined ? {} : { prompt }) } as const,
      { ...common, policy: "patched-prompt", prompt: [...instruction, ...tokens] } as const,
    ]) {
      await using conversation = await engine.conversation({ memory });
      await conversation.ingest(tokens);
      const answer = await conversation.ask("rex color ?", { maxTokens: 8, stopTokens: [] }).result();
      const { policy, promptTokens, ...held } = conversation.memory();
      expect(policy).toBe(memory.policy);
      prompts.push(promptTokens);
      memories.push({ ...held, answer: answer.tokens });
    }
    expect(memories[0]).toEqual(memories[1]);
    // What is repeated is no part of the prompt.
    expect(prompts).toEqual([instruction.length, instruction.length + tokens.length]);
  });

  it("equals full attention while the budget holds the whole history", async () => {
    const { text, questions } = recallDialogue(500);
    const bounded = { ...patched, budget: 600, tail: 512 };
    const answers = [];
    for (const memory of [{ policy: "full" } as const, bounded]) {
      await using conversation = await engine.conversation({ memory });
      await conversation.ingest(text);
      const options = { maxTokens: 40, stopTokens: [] };
      answers.push((await conversation.ask(questions[0]?.question ?? "", options).result()).tokens);
    }
    expect(answers[1]).toEqual(answers[0]);
  });

  it("runs its calls in their order", async () => {
    await using conversation = await engine.conversation();
    const order: string[] = [];
    const done = (name: string) => () => order.push(name);
    await Promise.all([
      conversation.ingest(recallDialogue(500).text).then(done("ingest")),
      conversation.ask("rex color ?").result().then(done("first")),
      conversation.ask("milo age ?").result().then(done("second")),
    ]);
    expect(order).toEqual(["ingest", "first", "second"]);
    expect(conversation.messages.map(({ content }) => content).filter((text) => text.endsWith("?"))).toEqual([
      "rex color ?",
      "milo age ?",
    ]);
  });

  it("lets a call inside the loop of another build on the whole answer", async () => {
    await using conversation = await engine.conversation();
    await conversation.ingest("session pets . user : rex color is red . user : milo age is seven .");
    const texts: string[] = [];
    for await (const chunk of conversation.ask("rex color ?")) {
      if (texts.length === 0) texts.push((await conversation.ask("milo age ?").result()).text);
      texts.push(chunk.text);
    }
    expect(texts).toEqual(["milo age is seven", "rex", " color", " is", " red"]);
    expect(conversation.messages).toHaveLength(4);
  });

  it("works in parallel with others on the same engine", async () => {
    const answers = await Promise.all(
      ["red", "blue", "green", "black"].map(async (color) => {
        await using conversation = await engine.conversation();
        await conversation.ingest(`session pets . user : rex color is ${color} .`);
        return await textOf(conversation.ask("rex color ?"));
      }),
    );
    expect(answers).toEqual(["red", "blue", "green", "black"].map((color) => `rex color is ${color}`));
  });
});

describe("turns in a chat format with marks", () => {
  let chat: Engine;
  beforeAll(async () => {
    chat = await load(join(fixtures, "llama"));
  });
  afterAll(() => chat.dispose());

  const header = (role: string) => `<|start_header_id|>${role}<|end_header_id|>\n\n`;
  const encode = (text: string) => chat.tokenizer.encode(text, { addSpecialTokens: false });
  const turn = (role: string, content: string) => `${header(role)}${content}<|eot_id|>`;

  it("begin with the system prompt", async () => {
    await using conversation = await chat.conversation({ system: "Be brief." });
    expect(conversation.messages).toEqual([{ role: "system", content: "Be brief." }]);
    await conversation.ingest({ role: "user", content: "Hello" });
    const text = `<|begin_of_text|>${turn("system", "Be brief.")}${turn("user", "Hello")}`;
    expect(conversation.memory().tokensSeen).toBe(encode(text).length);
    await conversation.ingest({ role: "user", content: "again" });
    expect(conversation.memory().tokensSeen).toBe(encode(text + turn("user", "again")).length);
  });

  it("close an answer that was cut off", async () => {
    const options = { maxTokens: 3, stopTokens: [] };
    await using conversation = await chat.conversation();
    const first = await conversation.ask("Hello", options).result();
    const second = await conversation.ask("Go on", options).result();
    const before = encode(`<|begin_of_text|>${turn("user", "Hello")}${header("assistant")}`);
    const between = encode(`<|eot_id|>${turn("user", "Go on")}${header("assistant")}`);
    const ids = [...before, ...first.tokens, ...between];
    expect(second.usage.promptTokens).toBe(between.length);
    expect((await chat.generate(ids, options).result()).tokens).toEqual(second.tokens);
    expect(conversation.memory().tokensSeen).toBe(ids.length + 2);
  });
});

describe("sampling", () => {
  const prompt = "session pets . user :";

  it("gives the same tokens for the same seed", async () => {
    const options = { temperature: 1.5, maxTokens: 30, stopTokens: [] };
    const draw = async (seed: number) => (await engine.generate(prompt, { ...options, seed }).result()).tokens;
    const [first, again, other] = [await draw(5), await draw(5), await draw(6)];
    expect(again).toEqual(first);
    expect(other).not.toEqual(first);
  });

  it("is greedy where nothing says otherwise", async () => {
    const options = { maxTokens: 10, stopTokens: [] };
    const [plain, cold, top1] = [
      await engine.generate(prompt, options).result(),
      await engine.generate(prompt, { ...options, temperature: 0 }).result(),
      await engine.generate(prompt, { ...options, temperature: 2, topK: 1 }).result(),
    ];
    expect(plain.tokens).toEqual(cold.tokens);
    expect(plain.tokens).toEqual(top1.tokens);
  });
});

describe("options that are wrong", () => {
  const wrong: [object, RegExp][] = [
    [{ maxTokens: -3 }, /^maxTokens must be an integer from 1 to \d+, got -3$/],
    [{ temperature: "hot" }, /^temperature must be a finite number from 0 to 100, got "hot"$/],
    [{ topK: 1.5 }, /^topK must be an integer/],
    [{ topP: 2 }, /^topP must be a finite number from 0 to 1, got 2$/],
    [{ minP: -1 }, /^minP must be/],
    [{ repetitionPenalty: 0 }, /^repetitionPenalty must be/],
    [{ seed: -1 }, /^seed must be/],
    [{ stop: [""] }, /^stop must be texts that are not empty, got ""$/],
    [{ stopTokens: [1.5] }, /^stopTokens\[0\] must be/],
    [{ remember: "no" }, /^remember must be true or false, got "no"$/],
    [{ signal: 5 }, /^signal must be an AbortSignal, got 5$/],
  ];
  it.each(wrong)("%j", async (options, message) => {
    await using conversation = await engine.conversation();
    await expectError(conversation.ask("rex color ?", options).result(), "ERR_INVALID_ARGUMENT", message);
    expect(conversation.messages).toEqual([]);
  });

  const memories: [MemoryOptions, RegExp][] = [
    [{ policy: "keydif" as never }, /^memory.policy must be one of full, .*got "keydif"$/],
    [{ policy: "keydiff" }, /^memory.budget is missing: policy "keydiff" needs/],
    [{ policy: "keydiff", budget: 0 }, /^memory.budget must be an integer from 1/],
    [
      { policy: "keydiff", budget: [1, 2] },
      /^memory.budget must be a number or one for each of the model's 3 layers/,
    ],
    [{ policy: "patched-prompt", budget: 8 }, /^memory.prompt must be a text or token ids/],
    [
      { policy: "patched-prompt", budget: 8, prompt: [832] },
      /^memory.prompt\[0\] must be an integer from 0 to 831, got 832$/,
    ],
    [
      { policy: "kvzip", budget: 8, prompt: 5 as never },
      /^memory.prompt must be a text or token ids \(policy "kvzip" asks/,
    ],
    [{ policy: "kvzip", budget: 8, prompt: [-1] }, /^memory.prompt\[0\] must be an integer from 0 to 831/],
    [{ policy: "streaming", budget: 4 }, /sinks \(4\) must be below the budget \(4 rows\)/],
    [{ policy: "snapkv", budget: 64, kernel: 4 }, /kernel must be odd/],
    [{ policy: "keydiff", budget: 8, block: 0 }, /^memory.block must be/],
  ];
  it.each(memories)("memory %j", async (memory, message) => {
    await expectError(engine.conversation({ memory }), "ERR_INVALID_ARGUMENT", message);
  });
});
