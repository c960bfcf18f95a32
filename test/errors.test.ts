import { cpSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Engine, type LoadOptions } from "../lib/index.js";
import { expectError, fixtures, load, recall } from "./engine/support.js";

const source = join(fixtures, "llama");
const work = mkdtempSync(join(tmpdir(), "longhaul-errors-"));
let serving: Engine;
beforeAll(async () => {
  serving = await load(recall);
});
afterAll(async () => {
  await serving.dispose();
  rmSync(work, { recursive: true });
});

/** A copy of a good model that `spoil` makes a bad one. */
function spoiled(name: string, spoil: (directory: string) => void): string {
  const directory = join(work, name);
  cpSync(source, directory, { recursive: true });
  spoil(directory);
  return directory;
}

const changeConfig = (change: object) => (directory: string) => {
  const path = join(directory, "config.json");
  writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, "utf8")), ...change }));
};

/** Writes `bytes` over the first values of the first tensor of at least 1 KiB. */
function overwriteWeights(directory: string, bytes: number[]): void {
  const path = join(directory, "model.safetensors");
  const file = readFileSync(path);
  file.set(bytes, 8 + Number(file.readBigUInt64LE(0)));
  writeFileSync(path, file);
}

const badModels: [string, (directory: string) => void, string, RegExp][] = [
  ["no config.json", (dir) => rmSync(join(dir, "config.json")), "ERR_INVALID_ARGUMENT", /config\.json/],
  ["no weights", (dir) => rmSync(join(dir, "model.safetensors")), "ERR_INVALID_ARGUMENT", /safetensors/],
  ["no tokenizer", (dir) => rmSync(join(dir, "tokenizer.json")), "ERR_CORRUPT_FILE", /tokenizer\.json/],
  [
    "a truncated file",
    (dir) => truncateSync(join(dir, "model.safetensors"), 9000),
    "ERR_CORRUPT_FILE",
    /model\.safetensors/,
  ],
  [
    "an empty file",
    (dir) => truncateSync(join(dir, "model.safetensors"), 0),
    "ERR_CORRUPT_FILE",
    /model\.safetensors/,
  ],
  [
    "a broken config",
    (dir) => writeFileSync(join(dir, "config.json"), '{"hidden_size": '),
    "ERR_CORRUPT_FILE",
    /config\.json/,
  ],
  [
    "a broken tokenizer",
    (dir) => writeFileSync(join(dir, "tokenizer.json"), "{}"),
    "ERR_CORRUPT_FILE",
    /tokenizer\.json/,
  ],
  ["another shape", changeConfig({ intermediate_size: 96 }), "ERR_CORRUPT_FILE", /\[.*\]/],
  ["too many layers", changeConfig({ num_hidden_layers: 4 }), "ERR_CORRUPT_FILE", /layers\.3/],
  [
    "an unknown architecture",
    changeConfig({ architectures: ["MambaForCausalLM"] }),
    "ERR_UNSUPPORTED",
    /MambaForCausalLM/,
  ],
  [
    "a sliding window",
    changeConfig({ architectures: ["MistralForCausalLM"], sliding_window: 64 }),
    "ERR_UNSUPPORTED",
    /sliding_window/,
  ],
  ["NaN weights", (dir) => overwriteWeights(dir, [0, 0, 0xc0, 0x7f]), "ERR_CORRUPT_FILE", /NaN|finite/i],
  [
    "odd generation defaults",
    (dir) => writeFileSync(join(dir, "generation_config.json"), '{"do_sample": true, "top_k": "x"}'),
    "ERR_CORRUPT_FILE",
    /top_k/,
  ],
];

describe("a bad model", () => {
  it.each(badModels)("with %s is refused", async (name, spoil, code, message) => {
    await expectError(load(spoiled(name.replaceAll(" ", "-"), spoil)), code, message);
    // Whoever is loaded goes on.
    expect(
      (await serving.generate("user : rex color is red . user : rex color ? assistant :").result()).text,
    ).toBe(" rex color is red");
  });

  it("that is not there is refused", async () => {
    await expectError(load(join(work, "nowhere")), "ERR_INVALID_ARGUMENT", /nowhere/);
    await expectError(load(join(source, "config.json")), "ERR_INVALID_ARGUMENT", /not a file/);
    await expectError(load(""), "ERR_INVALID_ARGUMENT", /^model must be/);
  });
});

describe("bad load options", () => {
  const wrong: [LoadOptions, string, RegExp][] = [
    [{ device: "tpu" as never }, "ERR_INVALID_ARGUMENT", /^device must be one of auto, cpu, cuda/],
    [{ threads: 0 }, "ERR_INVALID_ARGUMENT", /^threads must be an integer from 1/],
    [{ kvBytes: "many" }, "ERR_INVALID_ARGUMENT", /^kvBytes must be a positive number of bytes.*got "many"/],
    [{ kvBytes: -1 }, "ERR_INVALID_ARGUMENT", /^kvBytes must be/],
    [{ kvBytes: 100 }, "ERR_OUT_OF_MEMORY", /100/],
    [{ kvBytes: 2 ** 50 }, "ERR_OUT_OF_MEMORY", /cannot allocate \d+ bytes/],
  ];
  it.each(wrong)("%j, before any weight is read", async (options, code, message) => {
    const told: unknown[] = [];
    await expectError(
      load(recall, { ...options, onProgress: (progress) => told.push(progress) }),
      code,
      message,
    );
    expect(told).toEqual([]);
  });

  it("does not mistake units", async () => {
    for (const [kvBytes, bytes] of [
      ["3MB", 3e6],
      ["2.5 MiB", 2.5 * 2 ** 20],
      [4e6, 4e6],
      ["5000kb", 5e6],
    ] as const) {
      await using engine = await Engine.load(recall, { kvBytes });
      const pool = engine.memory().pool.bytes;
      expect(pool).toBeLessThanOrEqual(bytes);
      expect(pool).toBeGreaterThan(bytes - 10_000);
    }
  });
});

describe("a bad request", () => {
  const answers = async () =>
    (await serving.generate("user : rex color is red . user : rex color ? assistant :").result()).text;

  it("without anything in it is refused", async () => {
    await using conversation = await serving.conversation();
    const empty = "ERR_INVALID_ARGUMENT";
    await expectError(serving.generate("").result(), empty, /^input must be a text that is not empty/);
    await expectError(serving.generate([]).result(), empty, /at least one message, text or token id/);
    await expectError(conversation.ask("").result(), empty, /^input must be a text that is not empty/);
    await expectError(conversation.ingest(""), empty, /not empty/);
    await expectError(conversation.ingest([]), empty, /at least one message/);
    await expectError(serving.score([]), empty, /^input must be a text or token ids/);
    await expectError(serving.embed([""]), empty, /^texts\[0\] must be a string that is not empty/);
    await expectError(conversation.ask({ role: "user" } as never).result(), empty, /messages\[0\]\.content/);
    expect(await answers()).toBe(" rex color is red");
  });

  it("with a token id out of range is refused", async () => {
    await using conversation = await serving.conversation();
    const message = /^tokens\[1\] must be an integer from 0 to 831, got 832$/;
    await expectError(conversation.ingest([1, 832]), "ERR_INVALID_ARGUMENT", message);
    await expectError(conversation.ask([1, 832]).result(), "ERR_INVALID_ARGUMENT", message);
    await expectError(serving.score([1, 832]), "ERR_INVALID_ARGUMENT", message);
    await expectError(serving.generate([1, -1]).result(), "ERR_INVALID_ARGUMENT", /got -1$/);
    expect(conversation.memory().tokensSeen).toBe(0);
    expect(await answers()).toBe(" rex color is red");
  });

  it("for more logits than an array may hold is refused", async () => {
    // 833 values a token: 832 logits and a log-probability.
    const tokens = Array(Math.floor(2 ** 30 / 833) + 1).fill(4);
    await expectError(
      serving.score(tokens, { logits: true }),
      "ERR_INVALID_ARGUMENT",
      new RegExp(`^input must be tokens whose logits fit 4 GiB.*got "${tokens.length} tokens x 832 logits"`),
    );
    // One token fewer is a matter of the model's positions.
    await expectError(
      serving.score(tokens.slice(1), { logits: true }),
      "ERR_INVALID_ARGUMENT",
      /^position 1289005 is past the model's 8192 positions/,
    );
    expect(await answers()).toBe(" rex color is red");
  });

  it("past the model's positions is refused", async () => {
    await using conversation = await serving.conversation({ memory: { policy: "streaming", budget: 64 } });
    const ids = Array(8000).fill(4);
    await conversation.ingest(ids);
    const message =
      /past the model's 8192 positions.*8000 tokens are in the conversation and 200 more would follow/;
    await expectError(conversation.ingest(ids.slice(0, 200)), "ERR_INVALID_ARGUMENT", message);
    // An answer ends where the positions do, whatever maxTokens says.
    const options = { maxTokens: 300, stopTokens: [] };
    const answer = await conversation.ask(ids.slice(0, 150), options).result();
    expect(answer).toMatchObject({ finishReason: "length", usage: { completionTokens: 43 } });
    expect(await answers()).toBe(" rex color is red");
  });

  it("for more than the pool holds is refused with the arithmetic", async () => {
    await using engine = await load(recall, { kvBytes: "1MiB" });
    const memory = { policy: "patched-prompt", budget: 512, prompt: [4, 5, 6] } as const;
    // Pages of 16 rows: 3 layers x (512 x 2 / 16 + 2) kept, 3 x 2 x 512 / 16 of tail, 2 x ceil((512 + 3) / 16) in hand.
    await expectError(
      engine.conversation({ memory }),
      "ERR_OUT_OF_MEMORY",
      /198 pages of kept rows \(budget M = 512.*192 of tail \(T = 512\).*66 for the block in hand \(B = 512, P = 3\) = 456 pages.*raise kvBytes/,
    );
    await using conversation = await engine.conversation();
    const before = conversation.memory();
    await expectError(
      conversation.ingest(Array(4000).fill(4)),
      "ERR_OUT_OF_MEMORY",
      /3 layers x 2 KV heads x 250 pages = 1500 pages/,
    );
    expect(conversation.memory()).toEqual(before);
    await conversation.ingest("user : rex color is red .");
    expect((await conversation.ask("rex color ?").result()).text).toBe("rex color is red");
  });

  it("is kept apart from other engines", async () => {
    await using other = await load(source);
    await expectError(other.generate(Array(5000).fill(1)).result(), "ERR_INVALID_ARGUMENT", /4096 positions/);
    expect((await other.generate([1, 2, 3], { maxTokens: 4, stopTokens: [] }).result()).tokens).toHaveLength(4);
    expect(await answers()).toBe(" rex color is red");
  });
});
