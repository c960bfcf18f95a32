import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { fixtures, load, recall } from "./support.js";

const work = mkdtempSync(join(tmpdir(), "longhaul-load-"));
afterAll(() => rmSync(work, { recursive: true }));

/** A copy of a good model with a tensor of `bytes` more, which nothing uses. */
function withSpareTensor(bytes: number): string {
  const directory = join(work, `spare${bytes}`);
  cpSync(join(fixtures, "llama"), directory, { recursive: true });
  const path = join(directory, "model.safetensors");
  const file = readFileSync(path);
  const begin = 8 + Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString("utf8", 8, begin));
  const data = file.subarray(begin);
  header.spare = { dtype: "F32", shape: [bytes / 4], data_offsets: [data.length, data.length + bytes] };
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(path, Buffer.concat([length, text, data, Buffer.alloc(bytes)]));
  return directory;
}

async function progressOf(directory: string): Promise<{ loaded: number; total: number }[]> {
  const told: { loaded: number; total: number }[] = [];
  const onProgress = (progress: { phase: string; loaded: number; total: number }) => {
    if (progress.phase === "load") told.push({ loaded: progress.loaded, total: progress.total });
  };
  await (await load(directory, { onProgress: onProgress as never })).dispose();
  return told;
}

describe("loading", () => {
  it("tells bytes that grow and end with all of them", async () => {
    const whole = await progressOf(join(fixtures, "llama"));
    const { total } = whole.at(-1) as { total: number };
    expect(whole.every((progress) => progress.total === total)).toBe(true);
    expect(whole.at(-1)?.loaded).toBe(total);
    const loaded = whole.map((progress) => progress.loaded);
    expect(loaded).toEqual([...loaded].sort((a, b) => a - b));
    expect(new Set(loaded).size).toBeGreaterThan(5);
  });

  it("ends with all bytes where the checkpoint has more than the model uses", async () => {
    const { total } = (await progressOf(join(fixtures, "llama"))).at(-1) as { total: number };
    // More than the model itself: a sum that forgot it would end at half.
    const spare = await progressOf(withSpareTensor(4 * total));
    expect(spare.at(-1)).toEqual({ loaded: 5 * total, total: 5 * total });
  });
});

describe("the engine's memory", () => {
  it("states weights, the pool and the tokenizer's tables", async () => {
    await using engine = await load(recall, { kvBytes: "1MiB" });
    const { weights, tokenizer, pool } = engine.memory();
    const file = readFileSync(join(recall, "model.safetensors"));
    expect(weights).toBeGreaterThan(0.9 * file.length);
    expect(tokenizer).toBe(engine.tokenizer.tableBytes);
    expect(pool.bytes).toBeGreaterThan(0.9 * 2 ** 20);
    expect(pool.bytes).toBeLessThanOrEqual(2 ** 20);
  });
});
