import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Engine } from "../lib/index.js";

// The bench is plain JavaScript, run as it stands; these are the parts of it that are tested.
interface Bench {
  buildNative(targets: string[]): Promise<void>;
  nativeProgram(name: string): string;
  ensureCheckpoint(shape: object, dtype: string, cache: string): string;
  ensureGguf(directory: string, shape: object, dtype: string): string;
  permuteRows(data: Buffer, rows: number, heads: number): Buffer;
  ropeFactors(shape: object): Float32Array;
  shapeOf(name: string): { hidden: number; vocab: number; ropeScaling: { factor: number } };
  merge(run: object, engine: string, results: object[]): object;
  renderPage(result: object): string;
  sharesOf(result: object, record: object, point: object): object;
}

async function importBench(): Promise<Bench> {
  const files = [
    "build",
    "models/checkpoint",
    "models/gguf",
    "models/shapes",
    "engine/run",
    "report/compare",
    "report/page",
  ];
  const modules = files.map((file) => import(new URL(`../bench/${file}.mjs`, import.meta.url).href));
  return Object.assign({}, ...(await Promise.all(modules))) as Bench;
}

let bench: Bench;
let directory: string;
beforeAll(async () => {
  bench = await importBench();
  directory = mkdtempSync(join(tmpdir(), "longhaul-bench-test-"));
  await bench.buildNative(["bench_ops"]);
}, 600_000);
afterAll(() => rmSync(directory, { recursive: true, force: true }));

type Line = Record<string, number> & { kind: string; op: string; case: string; dtype: string; bound: string };

function benchOps(...args: string[]): Line[] {
  const output = execFileSync(bench.nativeProgram("bench_ops"), [...args, "--json"], { encoding: "utf8" });
  return output
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Line);
}

describe("bench_ops", () => {
  it("counts the bytes of an op and judges it by a ceiling of the same process", () => {
    const lines = benchOps("--quick", "--filter", "rms_norm", "--models", "stories260K", "--threads", "1");
    const ceilings = lines.filter(({ kind }) => kind === "ceiling") as unknown as {
      name: string;
      best: number;
    }[];
    const rates = new Map(ceilings.map(({ name, best }) => [name, best]));
    expect(rates.get("read.memory")).toBeGreaterThan(0);
    expect(rates.get("f32.generic")).toBeGreaterThan(0);

    const ops = lines.filter(({ kind }) => kind === "op");
    expect(ops.map((op) => `${op.op} ${op.case} ${op.dtype}`).sort()).toEqual([
      "rms_norm rows 1 with residual bf16",
      "rms_norm rows 512 with residual bf16",
    ]);
    for (const op of ops) {
      const elements = 64 * Number(/rows (\d+)/.exec(op.case)?.[1]);
      // x read and written as f32, delta read and out written as bf16, the weight read as f32.
      expect(op.bytes).toBe(elements * (4 + 4 + 2 + 2) + 64 * 4);
      expect(op.best_s).toBeGreaterThan(0);
      expect(op.median_s).toBeGreaterThanOrEqual(op.best_s as number);
      expect(op.high_s).toBeGreaterThanOrEqual(op.median_s as number);
      expect(op.bytes_per_s).toBeCloseTo((op.bytes as number) / (op.median_s as number), -6);
      const ceiling = rates.get(op.bound) as number;
      const least = (op.bound.startsWith("read") ? (op.bytes as number) : (op.flops as number)) / ceiling;
      expect(op.percent).toBeCloseTo((100 * least) / (op.median_s as number), 1);
    }
  });

  it("has cases for every op of the table, and runs them on the reference", () => {
    const lines = benchOps("--quick", "--device", "reference", "--filter", "rows 1 ");
    expect(lines.filter(({ kind }) => kind === "failure")).toEqual([]);
    const list = execFileSync(bench.nativeProgram("bench_ops"), ["--list"], { encoding: "utf8" });
    const header = readFileSync(new URL("../native/core/ops.h", import.meta.url), "utf8");
    const table = [...header.matchAll(/^ {2}Status \(\*(\w+)\)/gm)].map((match) => match[1] as string);
    expect(table.length).toBeGreaterThan(10);
    const listed = new Set(list.split("\n").map((line) => line.split(" ")[0]));
    expect(table.filter((op) => !listed.has(op))).toEqual([]);
  });

  it("names the option that is wrong", () => {
    const run = () => execFileSync(bench.nativeProgram("bench_ops"), ["--models", "gpt-5"], { stdio: "pipe" });
    expect(run).toThrow(/--models: 'gpt-5' is none of stories260K, /);
  });
});

describe("random checkpoints", () => {
  it("load, read a byte as a token and draw the same tokens every time", async () => {
    const shape = bench.shapeOf("stories260K");
    const model = bench.ensureCheckpoint(shape, "f32", directory);
    await using engine = await Engine.load(model, { threads: 1, kvBytes: "4MB" });
    expect(engine.info()).toMatchObject({ dtype: "f32", hiddenSize: 64, vocabularySize: 512, layers: 5 });
    expect(engine.tokenizer.encode("long haul")).toEqual([...Buffer.from("long haul")]);
    const again = bench.ensureCheckpoint(shape, "f32", join(directory, "again"));
    expect(readFileSync(join(again, "model.safetensors"))).toEqual(
      readFileSync(join(model, "model.safetensors")),
    );
    const answer = await engine.generate([256, 1, 2, 3], { maxTokens: 8, stopTokens: [] }).result();
    expect(answer.tokens).toHaveLength(8);
    const { logProbs } = await engine.score([256, 1, 2, 3, 4, 5]);
    expect(logProbs.every((value) => value < 0 && value > -20)).toBe(true);
  });

  it("become GGUF files of the same numbers", () => {
    const shape = bench.shapeOf("stories260K");
    const model = bench.ensureCheckpoint(shape, "bf16", directory);
    const gguf = readFileSync(bench.ensureGguf(model, shape, "bf16"));
    expect(gguf.subarray(0, 4).toString()).toBe("GGUF");
    const weights = readFileSync(join(model, "model.safetensors"));
    // The embedding is the first tensor of both, as it is.
    const embedding = weights
      .subarray(8 + Number(weights.readBigUInt64LE()), undefined)
      .subarray(0, 512 * 64 * 2);
    expect(gguf.includes(embedding)).toBe(true);
    // Two heads of four rows: halves (0 1 | 2 3) become neighbours 0 2 1 3.
    expect([...bench.permuteRows(Buffer.from([0, 1, 2, 3, 4, 5, 6, 7]), 8, 2)]).toEqual([
      0, 2, 1, 3, 4, 6, 5, 7,
    ]);
    const llama = bench.shapeOf("Llama-3.2-1B");
    const factors = bench.ropeFactors(llama);
    expect([factors[0], factors.at(-1)]).toEqual([1, llama.ropeScaling.factor]);
  });
});

describe("the page", () => {
  const summary = (median: number) => ({ median, low: median - 1, high: median + 1, count: 3 });
  const record = (engine: string, memory: string, rates: number[]) => ({
    engine,
    memory,
    model: "SmolLM2-135M",
    dtype: "bf16",
    threads: 1,
    bytes: engine === "longhaul" ? { stated: 400e6, resident: 412e6 } : { resident: 500e6 },
    points: rates.map((rate, index) => ({
      history: 1024 * 4 ** index,
      prefillTokensPerSecond: summary(10 * rate),
      decodeTokensPerSecond: summary(rate),
      firstTokenMs: summary(2000),
      nextTokenMs: summary(20),
      residentBytes: summary(412e6),
    })),
  });
  const op = {
    op: "gemm",
    model: "SmolLM2-135M",
    case: "down 576x1536 rows 512",
    dtype: "bf16",
    device: "cpu",
    threads: 1,
    bytes: 3932160,
    flops: 905969664,
    best_s: 0.002,
    median_s: 0.0025,
    low_s: 0.002,
    high_s: 0.003,
    bytes_per_s: 1.57e9,
    flops_per_s: 362.4e9,
    bound: "bf16.avx512bf16",
    percent: 73.25,
    percent_best: 91.5,
  };
  const ceiling = (name: string, unit: string, best: number) => ({
    name,
    threads: 1,
    unit,
    best,
    median: best / 2,
  });
  const result = {
    date: "2026-01-02T03:04:05.000Z",
    machine: {
      cpu: "Some <CPU>",
      cores: 2,
      features: ["avx2"],
      memoryBytes: 2 ** 34,
      system: "Linux 6",
      node: "20",
    },
    options: { quick: false },
    loadAverage: { before: [0.11, 0, 0], after: [1.22, 0, 0] },
    ceilings: [
      ceiling("read.memory", "B/s", 43.21e9),
      ceiling("read.cache", "B/s", 210e9),
      ceiling("bf16.avx512bf16", "FLOP/s", 494.8e9),
    ],
    ops: [op],
    failures: [],
    engines: [
      record("longhaul", "full", [88.8, 33.3]),
      record("longhaul", "budget 1024", [91.1, 90.2]),
      record("node-llama-cpp", "full", [44.4, 11.1]),
    ],
    neighbour: { model: "SmolLM2-135M", threads: 2, alone: summary(90), beside: summary(63), ratio: 0.7 },
  };

  it("shows the numbers of a result", () => {
    const page = bench.renderPage(result);
    for (const number of [
      "73.3 %",
      "43.2 GB/s",
      "495 GFLOP/s",
      "88.8",
      "90.2",
      "2.50 ms",
      "3,932,160",
      "0.11",
    ]) {
      expect(page).toContain(number);
    }
    // Ratios: 33.3 / 11.1, 90.2 / 33.3, 90.2 / 11.1; resident to stated 412 / 400; beside the busy process.
    for (const number of ["3.00x", "2.71x", "8.13x", "103", "70.0 %"]) expect(page).toContain(number);
    expect(page).toContain("Some &lt;CPU&gt;");
    expect(page.match(/<svg class="plot/g)?.length).toBe(4 + 3);
    expect(page).not.toContain("NaN");
    expect(page).not.toContain("undefined");
  });

  it("asks nothing of a network and runs nothing", () => {
    const page = bench.renderPage(result);
    expect(page).not.toMatch(/https?:|<script|<link|@import|url\(/);
    expect(page).toContain("prefers-color-scheme: dark");
    expect(page).toContain('name="viewport"');
  });

  it("shows a result of ops alone, and of engines alone", () => {
    expect(bench.renderPage({ ...result, engines: [], neighbour: undefined })).toContain("73.3 %");
    const engines = bench.renderPage({ ...result, ops: [], ceilings: [] });
    expect(engines).toContain("3.00x");
    expect(engines).not.toContain("How far each op");
  });

  it("puts repetitions together as median and range", () => {
    const once = (rate: number) => ({
      loadMs: 5,
      load: 0.2,
      memory: {},
      points: [
        {
          history: 512,
          prefillTokensPerSecond: rate,
          decodeTokensPerSecond: [rate, rate + 1, rate + 5],
          firstTokenMs: 1,
          nextTokenMs: [1],
          residentBytes: 7,
          answer: [1],
        },
      ],
    });
    const shape = bench.shapeOf("stories260K");
    const run = { model: "m", shape, dtype: "f32", threads: 1, memory: "full", spec: { answerTokens: 8 } };
    expect(bench.merge(run, "longhaul", [once(10), once(20)])).toMatchObject({
      loadAverage: [0.2, 0.2],
      points: [
        {
          decodeTokensPerSecond: { median: 17.5, low: 10, high: 25, count: 6 },
          residentBytes: { median: 7 },
          // 5 layers of 64 x (64 + 2 x 32) + 64 x 64 + 3 x 64 x 172 weights, and 8 heads of 8 over half the history.
          prefillFlops: 2 * 5 * (64 * 128 + 64 * 64 + 3 * 64 * 172) + 4 * 5 * 64 * ((512 + 1) / 2),
        },
      ],
    });
    const peak = { name: "f32.avx2", threads: 1, best: 1e9 };
    const memory = { name: "read.memory", threads: 1, best: 1e9 };
    const point = {
      prefillFlops: 1e6,
      decodeBytes: 2e6,
      prefillTokensPerSecond: summary(500),
      decodeTokensPerSecond: summary(400),
    };
    expect(bench.sharesOf({ ceilings: [peak, memory] }, run, point)).toEqual({ prefill: 50, decode: 80 });
  });
});
