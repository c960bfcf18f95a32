import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { fixtures, load, readTensor, worstError } from "./support.js";

interface Golden {
  readonly name: string;
  readonly text: string;
  readonly file: string;
  readonly limits: { readonly logits: { readonly abs: number; readonly rel: number } };
}

function golden(name: string): Golden {
  const config = JSON.parse(readFileSync(join(fixtures, name, "case.json"), "utf8"));
  const { text, file } = config.golden.short;
  return { name, text, file: join(fixtures, name, file), limits: config.limits };
}

const models = ["llama", "llama_plain", "llama_hd", "qwen2", "qwen3", "recall-llama-f32"].map(golden);

describe.each(models)("golden values of $name through the API", ({ name, text, file, limits }) => {
  it.each(["cpu", "reference"] as const)("match on %s", async (device) => {
    await using engine = await load(join(fixtures, name), { device });
    const ids = [...readTensor(file, "input_ids")];
    const logits = readTensor(file, "logits");
    const vocabulary = logits.length / ids.length;

    const score = await engine.score(text, { logits: true });
    expect(score.tokens).toEqual(ids);
    expect(worstError(score.logits ?? [], logits, limits.logits)).toBeLessThanOrEqual(1);
    const expected = ids.slice(1).map((id, i) => {
      const row = [...logits.subarray(i * vocabulary, (i + 1) * vocabulary)];
      return (row[id] ?? 0) - Math.log(row.reduce((sum, value) => sum + Math.exp(value), 0));
    });
    expect(worstError(score.logProbs, expected, { abs: 1e-3, rel: 1e-3 })).toBeLessThanOrEqual(1);
    const mean = expected.reduce((a, b) => a + b, 0) / expected.length;
    expect(score.perplexity / Math.exp(-mean)).toBeCloseTo(1, 3);

    const greedy = [...readTensor(file, "greedy_ids")];
    const options = { maxTokens: greedy.length, stopTokens: [], temperature: 0 };
    const answer = await engine.generate(ids, options).result();
    expect(answer.tokens).toEqual(greedy);
    expect(answer.finishReason).toBe("length");
    expect(answer.usage).toEqual({ promptTokens: ids.length, completionTokens: greedy.length });
  });
});

describe("embed", () => {
  it("pools the final hidden states", async () => {
    const { name, text, file } = golden("llama");
    await using engine = await load(join(fixtures, name));
    const { hiddenSize } = engine.info();
    const hidden = readTensor(file, "hidden_3");
    const rows = hidden.length / hiddenSize;
    const mean = Array.from({ length: hiddenSize }, (_, column) => {
      let sum = 0;
      for (let row = 0; row < rows; row++) sum += hidden[row * hiddenSize + column] as number;
      return sum / rows;
    });
    const tolerance = { abs: 2e-4, rel: 2e-4 };
    const [pooled, other] = await engine.embed([text, "Hello"], { normalize: false });
    expect(worstError(pooled ?? [], mean, tolerance)).toBeLessThanOrEqual(1);
    expect(other).not.toEqual(pooled);
    const [last] = await engine.embed([text], { pooling: "last", normalize: false });
    expect(worstError(last ?? [], hidden.subarray(-hiddenSize), tolerance)).toBeLessThanOrEqual(1);
    const length = Math.hypot(...mean);
    const [unit] = await engine.embed([text]);
    expect(
      worstError(
        unit ?? [],
        mean.map((value) => value / length),
        tolerance,
      ),
    ).toBeLessThanOrEqual(1);
  });
});
