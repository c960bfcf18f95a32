import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Engine, GenerateOptions, MemoryOptions } from "../../lib/index.js";
import { expectError, load, recall, recallDialogue } from "./support.js";

let engine: Engine;
beforeAll(async () => {
  engine = await load(recall, { maxBatch: 8 });
});
afterAll(() => engine.dispose());

interface Asked {
  readonly history: string;
  readonly question: string;
  readonly memory: MemoryOptions;
  readonly options: GenerateOptions;
}

const MEMORIES: MemoryOptions[] = [
  {},
  { policy: "keydiff", budget: 128, block: 128, tail: 64 },
  { policy: "snapkv", budget: 96, block: 64, tail: 32, window: 8 },
];

/** Twelve people with dialogues, memories and ways to draw of their own. */
const asked: Asked[] = Array.from({ length: 12 }, (_, person) => {
  const { text, questions } = recallDialogue(300 + 40 * person);
  return {
    history: text,
    question: questions[person % questions.length]?.question ?? "",
    memory: MEMORIES[person % 3] as MemoryOptions,
    options:
      person % 2 === 0
        ? { maxTokens: 12 }
        : { maxTokens: 40, temperature: 1, repetitionPenalty: 1.2, seed: person, stopTokens: [] },
  };
});

async function answer({ history, question, memory, options }: Asked): Promise<string> {
  await using conversation = await engine.conversation({ memory });
  await conversation.ingest(history);
  return (await conversation.ask(question, options).result()).text;
}

describe("conversations at the same time", () => {
  it("answer as they do one after the other", async () => {
    const alone: string[] = [];
    for (const one of asked) alone.push(await answer(one));
    expect(await Promise.all(asked.map(answer))).toEqual(alone);
  });

  it("answer while a long history is taken in", async () => {
    await using listener = await engine.conversation({ memory: { policy: "keydiff", budget: 64, block: 64 } });
    await using other = await engine.conversation();
    const { text } = recallDialogue(4000);
    let blocks = 0;
    let begin = () => {};
    const started = new Promise<void>((resolve) => {
      begin = resolve;
    });
    const taken = listener.ingest(text, {
      onProgress: () => {
        blocks++;
        begin();
      },
    });
    await started;
    await other.ask("rex color is red .", { maxTokens: 1 }).result();
    const blocksAtAnswer = blocks;
    await taken;
    expect(blocks).toBeGreaterThan(40);
    expect(blocksAtAnswer).toBeLessThan(blocks / 2);
  });

  it("do not hear of each other's end", async () => {
    const aborter = new AbortController();
    const [first, ...others] = asked;
    const victim = engine.generate(first?.history ?? "", {
      maxTokens: 1000,
      stopTokens: [],
      signal: aborter.signal,
    });
    const reading = (async () => {
      for await (const _ of victim) aborter.abort(new Error("gone"));
    })();
    const answers = Promise.all(others.slice(0, 4).map(answer));
    await expect(reading).rejects.toThrow("gone");
    expect(await answers).toEqual(await Promise.all(others.slice(0, 4).map(answer)));
  });

  it("get no batch of a size that cannot be", async () => {
    for (const maxBatch of [0, 1.5, -3]) {
      await expectError(load(recall, { maxBatch }), "ERR_INVALID_ARGUMENT", /maxBatch must be an integer/);
    }
  });
});
