// Layer profiles: against golden ones, and as the memory option that they are for.
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  type Engine,
  type LayerProfile,
  layerBudgets,
  type MemoryOptions,
  type ProfileProgress,
} from "../../lib/index.js";
import { expectError, fixtures, load, readTensor, recall, recallDialogue, rejection } from "./support.js";

const golden = JSON.parse(readFileSync(join(fixtures, "../layer_budgets/profiles.json"), "utf8"));
const work = mkdtempSync(join(tmpdir(), "longhaul-profile-"));
const dialogue = recallDialogue(1000).text;
const window = { sinks: 4, window: 32, block: 128 };

/** A copy of the recall model, so that a profile can lie beside it. */
function copyOfRecall(name: string): string {
  const directory = join(work, name);
  cpSync(recall, directory, { recursive: true });
  return directory;
}

const directory = copyOfRecall("model");
let engine: Engine;
let profile: LayerProfile;
beforeAll(async () => {
  engine = await load(directory);
  profile = await engine.profile([dialogue], window);
});
afterAll(async () => {
  await engine.dispose();
  rmSync(work, { recursive: true });
});

function near(actual: readonly number[], expected: readonly number[], digits: number): void {
  expect(actual).toHaveLength(expected.length);
  actual.forEach((value, i) => {
    expect(value).toBeCloseTo(expected[i] as number, digits);
  });
}

describe("a profile", () => {
  it.each(["cpu", "reference"] as const)("is the golden one on %s", async (device) => {
    const [{ model, profile: seen, sigma }] = golden;
    await using tiny = await load(join(fixtures, "..", model), { device });
    const ids = [...readTensor(join(fixtures, "..", model, "golden_long.safetensors"), "input_ids")];
    const { sinks, block, tail } = seen;
    const measured = await tiny.profile([ids], { sinks, block, window: tail });
    expect(measured).toMatchObject({ tokens: ids.length, texts: 1, sinks, block, window: tail });
    expect(measured.similarity[0]).toBe(1);
    for (const [layer, value] of measured.similarity.entries())
      expect(Math.abs(value - sigma[layer])).toBeLessThan(2e-5);
  });

  it("of several texts is the mean over their tokens", async () => {
    const texts = [dialogue.slice(0, 2000), dialogue.slice(2000, 5000)];
    const parts: LayerProfile[] = [];
    for (const text of texts) parts.push(await engine.profile([text], window));
    const told: ProfileProgress[] = [];
    const both = await engine.profile(texts, { ...window, onProgress: (progress) => told.push(progress) });
    const [first, second] = parts.map(({ tokens }) => tokens) as [number, number];
    expect(both).toMatchObject({ tokens: first + second, texts: 2 });
    const expected = both.similarity.map(
      (_, layer) =>
        parts.reduce((sum, one) => sum + (one.similarity[layer] as number) * one.tokens, 0) / both.tokens,
    );
    near(both.similarity, expected, 12);
    expect(expected[1]).not.toBe(parts[0]?.similarity[1]);

    const steps = (tokens: number, before: number) =>
      Array.from({ length: Math.ceil(tokens / 128) }, (_, i) => before + Math.min((i + 1) * 128, tokens));
    expect(told.map(({ tokens }) => tokens)).toEqual([...steps(first, 0), ...steps(second, first)]);
    expect(new Set(told.map(({ total }) => total))).toEqual(new Set([first + second]));
  });

  it("reads maxTokens of each text", async () => {
    const ids = engine.tokenizer.encode(dialogue);
    const cut = await engine.profile([dialogue], { ...window, maxTokens: 300 });
    expect(cut).toEqual(await engine.profile([ids.slice(0, 300)], window));
    expect(cut.tokens).toBe(300);
  });

  it("has EpiCache's proportions in a model of fewer positions", async () => {
    // recall-llama has 8192 positions.
    const message = /^texts\[0\] has \d+ tokens .* needs 2049: .* sinks 64, window 1024 and block 2048;/;
    await expectError(engine.profile([dialogue]), "ERR_INVALID_ARGUMENT", message);
    const { sinks, window: most } = await engine.profile([dialogue], { block: 256 });
    expect([sinks, most]).toEqual([8, 128]);
  });

  it("gives its memory back when it is aborted, and when it does not fit", async () => {
    const controller = new AbortController();
    const reason = new Error("enough");
    let blocks = 0;
    const onProgress = () => {
      if (++blocks === 2) controller.abort(reason);
    };
    const aborted = engine.profile([dialogue], { ...window, signal: controller.signal, onProgress });
    expect(await rejection(aborted)).toBe(reason);
    expect(engine.memory().pool).toMatchObject({ reserved: 0, used: 0 });

    await using small = await load(recall, { kvBytes: "1MiB" });
    const message = /^a profile of \d+ tokens keeps all of their keys and values, .* raise kvBytes/;
    await expectError(small.profile([dialogue], window), "ERR_OUT_OF_MEMORY", message);
    expect(small.memory().pool).toMatchObject({ reserved: 0, used: 0 });
  });

  const wrong: [unknown, object, RegExp][] = [
    ["one text", {}, /^texts must be an array of texts that is not empty, got "one text"$/],
    [[], {}, /^texts must be an array of texts that is not empty, got an array of 0$/],
    [[dialogue, 3], {}, /^texts\[1\] must be a string that is not empty, got 3$/],
    [[[1, 832]], {}, /^texts\[0\]\[1\] must be an integer from 0 to 831, got 832$/],
    [[dialogue], { block: 0 }, /^block must be an integer from 1 to/],
    [[dialogue], { window: 129 }, /^window must be an integer from 1 to 128, got 129$/],
    [[dialogue], { sinks: -1 }, /^sinks must be an integer from 0 to/],
    [[dialogue], { maxTokens: 8193 }, /^maxTokens must be an integer from 1 to 8192, got 8193$/],
    [[dialogue], { sinks: 100, maxTokens: 256 }, /^texts\[0\] has 256 tokens .* and needs 257: /],
  ];
  it.each(wrong)("of %j with %j is refused", async (texts, options, message) => {
    const call = engine.profile(texts as string[], { ...window, ...options });
    await expectError(call, "ERR_INVALID_ARGUMENT", message);
  });
});

describe("a profile beside the model", () => {
  const memory = { policy: "keydiff", budget: 64, block: 128, tail: 32 } satisfies MemoryOptions;
  const path = join(directory, "longhaul-profile.json");

  it("divides the budget among layers, to the row", async () => {
    expect(await engine.saveProfile(profile)).toBe(path);
    for (const [layers, alpha] of [
      ["profiled", 2],
      [{ profile: path, alpha: 1 }, 1],
      [{ profile: true, alpha: 4 }, 4],
    ] as const) {
      await using conversation = await engine.conversation({ memory: { ...memory, layers } });
      await conversation.ingest(dialogue);
      const rows = conversation.memory().rows.map((heads) => heads.reduce((a, b) => a + b, 0));
      expect(rows.reduce((a, b) => a + b, 0)).toBe(2 * 3 * 64);
      expect(rows).toEqual(layerBudgets(profile.similarity, 64, alpha).map((budget) => 2 * budget));
      expect(new Set(rows).size).toBeGreaterThan(1);
    }
  });

  it("is the same to the bit after it was read", async () => {
    const { similarity, model, ...rest } = JSON.parse(readFileSync(path, "utf8"));
    expect(similarity).toEqual(profile.similarity);
    expect(model).toMatchObject({ architecture: "LlamaForCausalLM", layers: 3, kvHeads: 2, headDim: 64 });
    const { tokens } = profile;
    expect(rest).toEqual({ format: "longhaul-profile", version: 1, texts: 1, tokens, options: window });
    expect(readdirSync(directory).filter((name) => name.includes("profile"))).toEqual([
      "longhaul-profile.json",
    ]);
  });

  it("that is not there is asked for", async () => {
    await using bare = await load(copyOfRecall("bare"));
    const conversation = bare.conversation({ memory: { ...memory, layers: "profiled" } });
    const message = /bare\/longhaul-profile\.json: there is no layer profile; make one with: longhaul profile /;
    await expectError(conversation, "ERR_INVALID_ARGUMENT", message);
    await using full = await bare.conversation({ memory: { layers: "profiled" } });
    expect(full.memory().policy).toBe("full"); // which has no budget to divide
  });

  // biome-ignore lint/suspicious/noExplicitAny: the document is ours.
  const spoilt: [string, (document: any) => unknown, string, RegExp][] = [
    ["half of one", (it) => JSON.stringify(it).slice(0, 99), "ERR_CORRUPT_FILE", /: is not a layer profile; /],
    ["null", () => "null", "ERR_CORRUPT_FILE", /: is not a layer profile; /],
    ["another document", () => ({ version: 1 }), "ERR_CORRUPT_FILE", /: is not a layer profile; /],
    ["newer", (it) => ({ ...it, version: 2 }), "ERR_UNSUPPORTED", /version 2, and this longhaul reads 1/],
    ["of no version", (it) => ({ ...it, version: "1" }), "ERR_CORRUPT_FILE", /no version that is known/],
    [
      "another model's",
      (it) => ({ ...it, model: { ...it.model, layers: 4, configSha256: "0" } }),
      "ERR_CORRUPT_FILE",
      /is the profile of another model \(layers, configSha256 differ\)/,
    ],
    ["of no model", ({ model: _, ...it }) => it, "ERR_CORRUPT_FILE", /of another model \(architecture, /],
    [
      "a layer short",
      (it) => ({ ...it, similarity: it.similarity.slice(1) }),
      "ERR_CORRUPT_FILE",
      /: similarity is not a number from -1 to 1 for each of the model's 3 layers; /,
    ],
    ["past 1", (it) => ({ ...it, similarity: [1, 2, 0] }), "ERR_CORRUPT_FILE", /: similarity is not a number/],
    ["of words", (it) => ({ ...it, similarity: ["1", 0, 0] }), "ERR_CORRUPT_FILE", /similarity is not a/],
  ];
  it.each(spoilt)("that is %s is refused", async (name, spoil, code, message) => {
    const file = join(work, `${name}.json`);
    const text = spoil(JSON.parse(readFileSync(path, "utf8")));
    writeFileSync(file, typeof text === "string" ? text : JSON.stringify(text));
    const conversation = engine.conversation({ memory: { ...memory, layers: { profile: file } } });
    await expectError(conversation, code, message);
  });

  it("is of the very config.json that the model has", async () => {
    const other = copyOfRecall("other");
    const config = JSON.parse(readFileSync(join(other, "config.json"), "utf8"));
    writeFileSync(join(other, "config.json"), JSON.stringify({ ...config, rope_theta: 10000 }));
    await using changed = await load(other);
    const conversation = changed.conversation({ memory: { ...memory, layers: { profile: path } } });
    await expectError(conversation, "ERR_CORRUPT_FILE", /of another model \(configSha256 differ\)/);
  });

  it("needs the model's directory as it was loaded", async () => {
    const gone = copyOfRecall("gone");
    await using loaded = await load(gone);
    rmSync(gone, { recursive: true });
    const message = /gone\/config\.json: cannot be read any more/;
    await expectError(loaded.saveProfile(profile, join(work, "x.json")), "ERR_INVALID_ARGUMENT", message);
    const layers = { profile: path };
    await expectError(loaded.conversation({ memory: { ...memory, layers } }), "ERR_INVALID_ARGUMENT", message);
  });

  it("is asked for before an engine that is disposed of meanwhile", async () => {
    const own = await load(recall);
    const memory = { policy: "epicache", budget: 32, layers: { profile: path } } as const;
    const refused = expectError(own.conversation({ memory }), "ERR_DISPOSED", /^the engine was disposed of$/);
    await own.dispose();
    await refused;
  });

  it("is not written over by what is no profile, nor where it cannot be", async () => {
    const before = readFileSync(path, "utf8");
    const bad = { ...profile, similarity: [1, Number.NaN, 0] };
    const message = /^profile\.similarity must be a number from -1 to 1 for each of the model's 3 layers/;
    const none = null as unknown as LayerProfile;
    await expectError(engine.saveProfile(none), "ERR_INVALID_ARGUMENT", /^profile must be what engine.profile/);
    await expectError(engine.saveProfile(bad), "ERR_INVALID_ARGUMENT", message);
    const nowhere = join(work, "no/such/place.json");
    await expectError(engine.saveProfile(profile, nowhere), "ERR_INVALID_ARGUMENT", /^cannot write .*place/);
    await expectError(engine.saveProfile(profile, work), "ERR_INVALID_ARGUMENT", /^cannot write /);
    expect(readFileSync(path, "utf8")).toBe(before);
    expect(readdirSync(tmpdir()).filter((name) => name.startsWith(`${basename(work)}.`))).toEqual([]);
  });

  const wrong: [unknown, RegExp][] = [
    ["profilde", /^memory\.layers must be "profiled", \{ similarity \} or \{ profile \}, got "profilde"$/],
    [{ profile: 3 }, /^memory\.layers\.profile must be a string that is not empty, got 3$/],
    [{ profile: true, similarity: [1, 0, 0] }, /^memory\.layers must be either \{ similarity \} or/],
    [{ profile: true, alpha: "2" }, /^alpha must be a finite number, got "2"$/],
  ];
  it.each(wrong)("is not found by %j", async (layers, message) => {
    const options = { ...memory, layers } as MemoryOptions;
    await expectError(engine.conversation({ memory: options }), "ERR_INVALID_ARGUMENT", message);
  });
});
