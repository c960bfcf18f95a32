import { describe, expect, it } from "vitest";
import { kernels, LonghaulError } from "../lib/index.js";

const devices = ["cpu", "reference"] as const;

/** Numbers from -1 to 1, the same at every run. */
function random(count: number, seed = 1): Float32Array {
  let state = seed;
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  });
}

function expectClose(actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance = 1e-5): void {
  expect(actual.length).toBe(expected.length);
  for (let i = 0; i < expected.length; i++) {
    const wanted = expected[i] as number;
    const error = Math.abs((actual[i] as number) - wanted);
    expect(error, `element ${i}: ${actual[i]} instead of ${wanted}`).toBeLessThanOrEqual(
      tolerance * (1 + Math.abs(wanted)),
    );
  }
}

const row = (array: Float32Array, index: number, width: number) => [
  ...array.subarray(index * width, (index + 1) * width),
];
const dot = (a: readonly number[], b: readonly number[]) => a.reduce((sum, x, i) => sum + x * (b[i] ?? 0), 0);
const bf16 = (values: Float32Array) =>
  Uint16Array.from(new Uint32Array(values.buffer, values.byteOffset, values.length), (bits) => bits >>> 16);
const fromBf16 = (bits: Uint16Array) => new Float32Array(Uint32Array.from(bits, (value) => value << 16).buffer);

/** Attention weights of one query over keys, before they are normalised, and the logarithm of their sum. */
function weigh(q: readonly number[], keys: readonly (readonly number[])[], scale: number) {
  const scores = keys.map((key) => scale * dot(q, key));
  const lse = Math.log(scores.reduce((sum, score) => sum + Math.exp(score), 0));
  return { weights: scores.map((score) => Math.exp(score - lse)), lse };
}

describe.each(devices)("dense kernels on %s", (device) => {
  it("embeds", async () => {
    const table = { data: random(12), cols: 3 };
    const out = await kernels.embed({ ids: [3, 0, 3], table }, { device });
    expect([...out]).toEqual([...row(table.data, 3, 3), ...row(table.data, 0, 3), ...row(table.data, 3, 3)]);
  });

  it("normalises, with and without a sum", async () => {
    const [x, delta, weight] = [random(10), random(10, 2), random(5, 3)];
    const norm = (values: Float32Array) =>
      [0, 1].flatMap((index) => {
        const part = row(values, index, 5);
        const scale = 1 / Math.sqrt(dot(part, part) / 5 + 1e-5);
        return part.map((value, i) => value * scale * (weight[i] ?? 0));
      });
    expectClose(await kernels.rmsNorm({ x, weight, eps: 1e-5 }, { device }), norm(x));
    const { sum, out } = await kernels.addRmsNorm({ x, delta, weight, eps: 1e-5 }, { device });
    const expected = x.map((value, i) => value + (delta[i] ?? 0));
    expectClose(sum, expected);
    expectClose(out, norm(expected));
  });

  it.each(["f32", "bf16"] as const)("multiplies with %s weights, a bias and a sum", async (dtype) => {
    const [rows, cols, outputs] = [3, 40, 7];
    const bits = bf16(random(outputs * cols, 5));
    const values = fromBf16(bits);
    const x = fromBf16(bf16(random(rows * cols, 6)));
    const [bias, sum] = [random(outputs, 7), random(rows * outputs, 8)];
    const weight = { data: dtype === "f32" ? values : bits, cols, dtype };
    const product = Array.from({ length: rows * outputs }, (_, i) =>
      dot(row(x, Math.floor(i / outputs), cols), row(values, i % outputs, cols)),
    );
    expectClose(await kernels.gemm({ x, weight }, { device }), product);
    const biased = product.map((value, i) => value + (bias[i % outputs] ?? 0) + (sum[i] ?? 0));
    expectClose(await kernels.gemm({ x, weight, bias, sum }, { device }), biased);
  });

  it("computes SwiGLU", async () => {
    const gateUp = random(12);
    const expected = [0, 1].flatMap((index) => {
      const part = row(gateUp, index, 6);
      return [0, 1, 2].map((i) => ((part[i] ?? 0) / (1 + Math.exp(-(part[i] ?? 0)))) * (part[i + 3] ?? 0));
    });
    expectClose(await kernels.swiglu({ gateUp, ff: 3 }, { device }), expected);
  });

  it("rotates", async () => {
    const positions = [0, 7, 100_000];
    const frequencies = Float64Array.of(1, 0.01);
    const { cos, sin } = await kernels.ropeTable({ positions, frequencies }, { device });
    const angles = positions.flatMap((position) => [...frequencies].map((f) => position * f));
    expectClose(cos, angles.map(Math.cos), 1e-6);
    expectClose(sin, angles.map(Math.sin), 1e-6);
    const x = random(3 * 2 * 4);
    const out = await kernels.rope({ x, heads: 2, headDim: 4, cos, sin }, { device });
    const expected = [...x].map((value, i) => {
      const [pair, position, first] = [i % 2, Math.floor(i / 8), i % 4 < 2];
      const angle = angles[position * 2 + pair] ?? 0;
      const other = x[first ? i + 2 : i - 2] ?? 0;
      return value * Math.cos(angle) + (first ? -other : other) * Math.sin(angle);
    });
    expectClose(out, expected);
  });

  it("gathers rows", async () => {
    const x = random(8);
    const out = await kernels.gatherRows({ x, dim: 2, index: [3, 1] }, { device });
    expect([...out]).toEqual([...row(x, 3, 2), ...row(x, 1, 2)]);
  });
});

/** 20 rows (two pages) of 2 KV heads with 8 dimensions. */
const [rows, kvHeads, headDim, heads] = [20, 2, 8, 4];
const cache = {
  k: random(rows * kvHeads * headDim, 11),
  v: random(rows * kvHeads * headDim, 12),
  kvHeads,
  headDim,
};
const q = random(3 * heads * headDim, 13).map((value) => value * 3);
const scale = 1 / Math.sqrt(headDim);
const headRow = (array: Float32Array, at: number, head: number) => row(array, at * kvHeads + head, headDim);
const query = (index: number, head: number) => row(q, index * heads + head, headDim);
const keysOf = (head: number, count: number) =>
  Array.from({ length: count }, (_, at) => headRow(cache.k, at, head));

describe.each(devices)("kernels over a cache on %s", (device) => {
  it("attends, each query to what is before it, also where heads have different lengths", async () => {
    for (const lengths of [
      [20, 20],
      [5, 18],
    ]) {
      const { out, lse } = await kernels.attention({ ...cache, q, heads, lengths }, { device });
      const expected = Array.from({ length: 3 * heads }, (_, i) => {
        const [index, head] = [Math.floor(i / heads), i % heads];
        const kvHead = Math.floor(head / 2);
        const seen = (lengths[kvHead] ?? 0) - 3 + index + 1;
        const weighed = weigh(query(index, head), keysOf(kvHead, seen), scale);
        const mix = Array.from({ length: headDim }, (_, d) =>
          weighed.weights.reduce((sum, w, at) => sum + w * (headRow(cache.v, at, kvHead)[d] ?? 0), 0),
        );
        return { mix, lse: weighed.lse };
      });
      expectClose(
        out,
        expected.flatMap(({ mix }) => mix),
        2e-5,
      );
      expectClose(
        lse,
        expected.map((entry) => entry.lse),
        2e-5,
      );
    }
  });

  it("merges attention over disjoint keys into attention over all of them", async () => {
    const one = q.subarray(0, heads * headDim).slice();
    const part = (begin: number, end: number) => {
      const width = kvHeads * headDim;
      const [k, v] = [cache.k.slice(begin * width, end * width), cache.v.slice(begin * width, end * width)];
      return kernels.attention({ ...cache, k, v, q: one, heads }, { device });
    };
    const [first, second, all] = [await part(0, 9), await part(9, 20), await part(0, 20)];
    const merged = await kernels.mergeStates(
      {
        parts: Float32Array.of(...first.out, ...second.out),
        lses: Float32Array.of(...first.lse, ...second.lse),
        splits: 2,
        heads,
        headDim,
      },
      { device },
    );
    expectClose(merged.out, all.out);
    expectClose(merged.lse, all.lse);
  });

  it("appends, rotated and in a smaller type, and truncates", async () => {
    const plain = await kernels.append({ ...cache, dtype: "bf16" }, { device });
    const held = [0, 1].map((head) => Float32Array.from(keysOf(head, rows).flat()));
    for (const [head, k] of plain.k.entries()) expectClose(k, held[head] ?? [], 2 ** -8);
    const half = Array.from({ length: rows }, (_, position) => position * 0.5);
    const table = (f: (x: number) => number) =>
      Float32Array.from(half.flatMap((angle) => Array(4).fill(f(angle))));
    const rotation = { cos: table(Math.cos), sin: table(Math.sin) };
    const rotated = await kernels.append({ ...cache, ...rotation }, { device });
    const [x, y] = [headRow(cache.k, 7, 1)[2] ?? 0, headRow(cache.k, 7, 1)[6] ?? 0];
    expectClose([rotated.k[1]?.[7 * headDim + 2] ?? 0], [x * Math.cos(3.5) - y * Math.sin(3.5)]);
    const short = await kernels.truncate({ ...cache, lengths: [20, 3], drop: 5 }, { device });
    expect(short.positions.map((positions) => positions.length)).toEqual([15, 0]);
    expect([...(short.k[0] ?? [])]).toEqual([...(held[0] ?? [])].slice(0, 15 * headDim));
  });

  it("scores keys by the attention they get", async () => {
    for (const { window, ignoreLast, reduce } of [
      { window: false, ignoreLast: 4, reduce: "max" },
      { window: true, ignoreLast: 0, reduce: "mean" },
    ] as const) {
      const scores = await kernels.scoreKeys({ ...cache, q, heads, window, ignoreLast, reduce }, { device });
      for (const [kvHead, actual] of scores.entries()) {
        const scored = rows - ignoreLast - (window ? 3 : 0);
        const attention = [0, 1, 2].flatMap((index) =>
          [2 * kvHead, 2 * kvHead + 1].map((head) => {
            const seen = window ? rows - 3 + index + 1 : rows - ignoreLast;
            return weigh(query(index, head), keysOf(kvHead, seen), scale).weights;
          }),
        );
        const expected = Array.from({ length: scored }, (_, at) => {
          const column = attention.map((weights) => weights[at] ?? 0);
          return reduce === "max" ? Math.max(...column) : column.reduce((a, b) => a + b, 0) / column.length;
        });
        expectClose(actual, expected, 2e-5);
      }
    }
  });

  it("scores keys by how unlike the others they are", async () => {
    const scores = await kernels.keyDiversity({ k: cache.k, kvHeads, headDim, ignoreLast: 2 }, { device });
    for (const [head, actual] of scores.entries()) {
      const units = keysOf(head, rows - 2).map((key) => key.map((x) => x / Math.sqrt(dot(key, key))));
      const anchor = Array.from({ length: headDim }, (_, d) =>
        units.reduce((sum, unit) => sum + (unit[d] ?? 0) / units.length, 0),
      );
      expectClose(
        actual,
        units.map((unit) => -dot(unit, anchor) / Math.sqrt(dot(anchor, anchor))),
        2e-5,
      );
    }
  });

  it("selects the best rows and compacts the cache to them", async () => {
    const scores = [Float32Array.of(1, 5, 3, 5, 0), Float32Array.of(4, 9, Number.NaN, 2, 5)];
    const select = (options: object) =>
      kernels.selectRows({ lengths: [5, 5], scores, budget: 2, ...options }, { device });
    const asLists = (kept: readonly Int32Array[]) => kept.map((part) => [...part]);
    // 9, then the three fives in the order of head and row: all heads compete.
    expect(asLists(await select({}))).toEqual([
      [1, 3],
      [1, 4],
    ]);
    expect(asLists(await select({ level: "head", protectFirst: 1 }))).toEqual([
      [0, 1],
      [0, 1],
    ]);
    expect(asLists(await select({ level: "head", dropLast: 2 }))).toEqual([
      [1, 2],
      [0, 1],
    ]);
    expect(asLists(await kernels.selectRows({ lengths: [5, 3], budget: 1 }, { device }))).toEqual([[4], [2]]);

    const kept = [Int32Array.of(0, 3, 17), Int32Array.of(19)];
    const held = await kernels.compact({ ...cache, kept }, { device });
    expect(asLists(held.positions)).toEqual([[0, 3, 17], [19]]);
    expect([...(held.k[0] ?? [])]).toEqual([0, 3, 17].flatMap((at) => headRow(cache.k, at, 0)));
    expect([...(held.v[1] ?? [])]).toEqual(headRow(cache.v, 19, 1));
  });
});

describe.each(devices)("sampling on %s", (device) => {
  const logits = Float32Array.of(1, 3, 2, 3, -1, 0);

  it("takes the largest logit, the lowest id on a tie", async () => {
    const { ids } = await kernels.sample({ logits, vocabulary: 3, temperature: 0 }, { device });
    expect([...ids]).toEqual([1, 0]);
  });

  it("filters and draws from what is left", async () => {
    const options = { logits, vocabulary: 6, temperature: 2, topK: 3, seen: [1], repetitionPenalty: 1.5 };
    const { ids, probabilities } = await kernels.sample({ ...options, seed: 7 }, { device });
    const weights = [0, Math.exp(1), Math.exp(1), Math.exp(1.5), 0, 0];
    const sum = weights.reduce((a, b) => a + b);
    // 3 / 1.5 ties with 2 as third largest: both stay.
    expectClose(
      probabilities,
      weights.map((weight) => weight / sum),
    );
    expect(weights[ids[0] ?? 0]).toBeGreaterThan(0);
    const again = await kernels.sample({ ...options, seed: 7 }, { device });
    expect([...again.ids]).toEqual([...ids]);
  });

  it("draws each token as often as it is probable", async () => {
    const many = new Float32Array(4000 * 3).map((_, i) => Math.log([0.5, 0.3, 0.2][i % 3] ?? 1));
    const { ids } = await kernels.sample({ logits: many, vocabulary: 3, seed: 3 }, { device });
    for (const [token, probability] of [0.5, 0.3, 0.2].entries()) {
      const share = ids.filter((id) => id === token).length / 4000;
      // Five standard deviations.
      expect(Math.abs(share - probability)).toBeLessThan(
        5 * Math.sqrt((probability * (1 - probability)) / 4000),
      );
    }
  });
});

describe("kernels with wrong arguments", () => {
  const weight = { data: random(6), cols: 3 };
  const wrong: [string, () => Promise<unknown>, RegExp][] = [
    [
      "rows that do not divide",
      () => kernels.rmsNorm({ x: random(5), weight: random(2) }),
      /^x must be rows of 2/,
    ],
    [
      "another type of array",
      () => kernels.rmsNorm({ x: [1] as never, weight: random(1) }),
      /^x must be a Float32Array/,
    ],
    [
      "a token id past the table",
      () => kernels.embed({ ids: [2], table: weight }),
      /^ids\[0\] must be from 0 to 1, got 2/,
    ],
    ["a negative id", () => kernels.embed({ ids: [-1], table: weight }), /^ids\[0\] must be an integer/],
    [
      "a row past the end",
      () => kernels.gatherRows({ x: random(4), dim: 2, index: [2] }),
      /^index\[0\] must be from 0 to 1/,
    ],
    [
      "heads that do not divide",
      () => kernels.attention({ ...cache, q, heads: 3 }),
      /^heads must be a multiple of kvHeads/,
    ],
    [
      "more queries than rows",
      () => kernels.attention({ ...cache, q, heads, lengths: [2, 20] }),
      /3 queries, but a head holds only 2 rows/,
    ],
    [
      "a head dim no kernel takes",
      () => kernels.attention({ k: random(3), v: random(3), kvHeads: 1, headDim: 3, q: random(3), heads: 1 }),
      /head dim must be even/,
    ],
    [
      "an even neighbourhood",
      () => kernels.scoreKeys({ ...cache, q, heads, poolKernel: 2 }),
      /pool_kernel must be odd/,
    ],
    [
      "rows to keep out of order",
      () => kernels.compact({ ...cache, kept: [[3, 1], []] }),
      /^kept\[0\]\[1\] must be an integer from 4/,
    ],
    [
      "an unknown device",
      () => kernels.rmsNorm({ x: random(2), weight: random(2) }, { device: "gpu" as never }),
      /^device must be one of auto, cpu, cuda, cuda:N, reference, got "gpu"/,
    ],
  ];

  it.each(wrong)("refuses %s", async (_, call, message) => {
    const error = await call().then(
      () => undefined,
      (reason: unknown) => reason,
    );
    expect(error).toBeInstanceOf(LonghaulError);
    expect(error).toMatchObject({ code: "ERR_INVALID_ARGUMENT", message: expect.stringMatching(message) });
  });

  it("still computes afterwards", async () => {
    expect([...(await kernels.gatherRows({ x: random(2), dim: 1, index: [0] }))]).toEqual([random(2)[0]]);
  });
});
