import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { Adapter, type Engine } from "../../lib/index.js";
import { expectError, fixtures, load, readTensor, root } from "./support.js";

const cases = join(root, "test/fixtures/dynmole/adapters");
const bad = join(root, "test/fixtures/dynmole/bad_adapters");

/** Prompt and greedy ids of a golden case. */
function golden(name: string) {
  const file = join(cases, name, "golden.safetensors");
  return { ids: [...readTensor(file, "input_ids")], greedy: [...readTensor(file, "greedy_ids")] };
}

async function greedy(engine: Engine, ids: readonly number[], count: number, adapter?: Adapter) {
  const options = { maxTokens: count, stopTokens: [], temperature: 0, ...(adapter ? { adapter } : {}) };
  return (await engine.generate(ids, options).result()).tokens;
}

/** A DoRA of rank 1 for the queries of two layers of 64 x 64, with these magnitudes and B = 0. */
function writeDora(directory: string, magnitude: (layer: number) => Float32Array): void {
  const header: Record<string, unknown> = {};
  const values: Float32Array[] = [];
  for (const layer of [0, 1]) {
    for (const [part, shape, of] of [
      ["lora_A.weight", [1, 64], new Float32Array(64).fill(0.1)],
      ["lora_B.weight", [64, 1], new Float32Array(64)],
      ["lora_magnitude_vector", [64], magnitude(layer)],
    ] as const) {
      const name = `base_model.model.model.layers.${layer}.self_attn.q_proj.${part}`;
      header[name] = { dtype: "F32", shape, data_offsets: [values.length * 256, values.length * 256 + 256] };
      values.push(of);
    }
  }
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  const parts = values.map(({ buffer }) => Buffer.from(buffer));
  writeFileSync(join(directory, "adapter_model.safetensors"), Buffer.concat([length, text, ...parts]));
  const config = { peft_type: "LORA", r: 1, lora_alpha: 1, use_dora: true, target_modules: ["q_proj"] };
  writeFileSync(join(directory, "adapter_config.json"), JSON.stringify(config));
}

describe("adapters", () => {
  it.each([
    ["llama", "dynmole_ffn"],
    ["llama", "dynmole_all7"],
    ["llama", "mixlora"],
    ["llama", "lora_peft"],
    ["qwen2", "lora_peft_qwen2"],
    ["qwen3", "dynmole_all7_qwen3"],
  ])("answers with %s and %s as the golden case", async (model, name) => {
    const { ids, greedy: expected } = golden(name);
    await using engine = await load(join(fixtures, model));
    await using adapter = await engine.loadAdapter(join(cases, name));
    expect(await greedy(engine, ids, expected.length, adapter)).toEqual(expected);
    expect(adapter.bytes).toBeGreaterThan(0);
  });

  it("serves different adapters and the model alone at the same time", async () => {
    await using engine = await load(join(fixtures, "llama"));
    const names = ["dynmole_ffn", "mixlora", "lora_peft", "dynmole_ffn"];
    const { ids } = golden("dynmole_ffn");
    const alone = await greedy(engine, ids, 12);
    const adapters = await Promise.all(names.map((name) => engine.loadAdapter(join(cases, name))));
    const answers = await Promise.all([
      ...names.map((name, i) => greedy(engine, golden(name).ids, 12, adapters[i])),
      greedy(engine, ids, 12),
    ]);
    expect(answers).toEqual([...names.map((name) => golden(name).greedy), alone]);
    expect(alone).not.toEqual(golden("dynmole_ffn").greedy);
  });

  it("gives the device's memory back when adapter and conversations are disposed of", async () => {
    await using engine = await load(join(fixtures, "llama"));
    const { ids, greedy: expected } = golden("mixlora");
    const path = join(cases, "mixlora");
    const before = engine.memory().weights;
    for (let i = 0; i < 5; i++) {
      const adapter = await engine.loadAdapter(path);
      expect(engine.memory().weights - before).toBe(adapter.bytes);
      const conversation = await engine.conversation({ adapter });
      await adapter.dispose();
      await adapter.dispose();
      expect(engine.memory().weights - before).toBe(adapter.bytes);
      const options = { maxTokens: expected.length, stopTokens: [], temperature: 0 };
      expect((await conversation.ask(ids, options).result()).tokens).toEqual(expected);
      await conversation.dispose();
      expect(engine.memory().weights).toBe(before);
    }
  });

  it("works with a bounded memory", async () => {
    await using engine = await load(join(fixtures, "llama"));
    await using adapter = await engine.loadAdapter(join(cases, "dynmole_ffn"));
    const { ids, greedy: expected } = golden("dynmole_ffn");
    await using conversation = await engine.conversation({
      adapter,
      memory: { policy: "snapkv", budget: 64, block: 64, tail: 64, window: 8 },
    });
    const options = { maxTokens: expected.length, stopTokens: [], temperature: 0 };
    expect((await conversation.ask(ids, options).result()).tokens).toEqual(expected);
  });

  it("refuses hostile, incomplete and foreign files, and goes on serving", async () => {
    await using engine = await load(join(fixtures, "llama_plain"));
    const loading = (name: string) => engine.loadAdapter(join(bad, name));
    await expectError(loading("hostile_os_system"), "ERR_CORRUPT_FILE", /"os\.system".*nothing was executed/);
    await expectError(loading("hostile_eval_inside_valid"), "ERR_CORRUPT_FILE", /"builtins\.eval"/);
    await expectError(
      loading("missing_tensor"),
      "ERR_CORRUPT_FILE",
      /'dynmole\.layers\.1\.mlp\.down_proj\.experts\.2\.lora_B\.weight'/,
    );
    await expectError(loading("truncated_storage"), "ERR_CORRUPT_FILE", /moe_gate\.weight" is in storage 0/);
    await expectError(loading("nowhere"), "ERR_INVALID_ARGUMENT", /adapter_config\.json/);
    await expectError(
      engine.loadAdapter(join(cases, "lora_peft")),
      "ERR_CORRUPT_FILE",
      /tensor .*base_model\.model\.model\.layers\./,
    );
    await using adapter = await loading("control_valid");
    expect((await greedy(engine, [1, 2, 3], 4, adapter)).length).toBe(4);
  });

  it("rescales a projection as DoRA does", async () => {
    const model = join(fixtures, "llama_plain");
    await using engine = await load(model);
    const prompt = [3, 14, 15, 92, 6, 5, 35];
    const alone = await greedy(engine, prompt, 16);
    // B is zero, so that a magnitude of the weight's own norms changes nothing, and one of zeros blinds the queries.
    const norms = (layer: number) => {
      const weight = readTensor(
        join(model, "model.safetensors"),
        `model.layers.${layer}.self_attn.q_proj.weight`,
      );
      return Float32Array.from({ length: 64 }, (_, row) =>
        Math.hypot(...weight.slice(row * 64, (row + 1) * 64)),
      );
    };
    const answers: (readonly number[])[] = [];
    for (const scale of [1, 0]) {
      const directory = mkdtempSync(join(tmpdir(), "longhaul-dora-"));
      try {
        writeDora(directory, (layer) => norms(layer).map((norm) => norm * scale));
        await using adapter = await engine.loadAdapter(directory);
        answers.push(await greedy(engine, prompt, 16, adapter));
      } finally {
        rmSync(directory, { recursive: true });
      }
    }
    expect(answers[0]).toEqual(alone);
    expect(answers[1]).not.toEqual(alone);
  });

  it("refuses adapters of other engines, disposed ones, and what is none", async () => {
    await using engine = await load(join(fixtures, "llama"));
    await using other = await load(join(fixtures, "llama"));
    await using foreign = await other.loadAdapter(join(cases, "lora_peft"));
    const message = /adapter must be an adapter that this engine's loadAdapter gave/;
    await expectError(engine.conversation({ adapter: foreign }), "ERR_INVALID_ARGUMENT", message);
    await expectError(
      engine.conversation({ adapter: "lora" as unknown as Adapter }),
      "ERR_INVALID_ARGUMENT",
      message,
    );
    const gone = await engine.loadAdapter(join(cases, "lora_peft"));
    await gone.dispose();
    await expectError(engine.conversation({ adapter: gone }), "ERR_DISPOSED", /load it again/);
    await expectError(engine.loadAdapter(1 as unknown as string), "ERR_INVALID_ARGUMENT", /directory/);
    expect(gone).toBeInstanceOf(Adapter);
  });

  it("refuses to save a conversation with an adapter", async () => {
    await using engine = await load(join(fixtures, "llama"));
    await using adapter = await engine.loadAdapter(join(cases, "lora_peft"));
    await using conversation = await engine.conversation({ adapter });
    await expectError(conversation.save(join(tmpdir(), "never")), "ERR_UNSUPPORTED", /with an adapter/);
  });
});
