import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import {
  clusterBandwidths,
  fitBandwidth,
  fitComputeCosts,
  fitTokensPerDevice,
  formatCosts,
  parseCosts,
  parseLengths,
  planSequenceParallel,
  publishedCosts,
  type SequenceParallelCosts,
  simulateStep,
} from "../../lib/index.js";
import { allowsUlysses, bytesPerToken, chooseKind } from "../../lib/planner/attention-kind.js";
import { longTailed } from "./support.js";

const published = publishedCosts("gpt-7b", { devices: 64 });
const model = { layers: 2, heads: 32, kvHeads: 8, headDim: 128, bytesPerElement: 2, pass: "prefill" as const };
const shape = (heads: number, kvHeads: number) => ({ ...model, heads, kvHeads });

describe("kinds of attention", () => {
  it("Ulysses wants heads divided evenly, and KV heads divided or repeated evenly", () => {
    for (const [heads, kvHeads, degree, allowed] of [
      [32, 8, 8, true],
      [32, 8, 16, true],
      [32, 8, 64, false],
      [28, 7, 2, false],
      [28, 7, 4, false],
      [40, 8, 8, true],
      [40, 8, 16, false],
      [12, 3, 4, false],
      [12, 3, 1, true],
      [32, 2, 32, true],
    ] as const) {
      expect(allowsUlysses({ heads, kvHeads }, degree), `${heads}/${kvHeads} on ${degree}`).toBe(allowed);
    }
  });

  it("bytes are those of the tensors: Q and O of a rank, keys and values of the heads it works on, or of the others", () => {
    // 2 layers, 2 bytes; Q and O are 2 * 32 * 128 numbers, K and V 2 * 8 * 128.
    expect(bytesPerToken(model, "ulysses", 8)).toEqual({
      allToAll: (2 * 2 * (8192 + 2048)) / 8,
      neighbours: 0,
    });
    // 16 ranks, 8 KV heads: each is repeated on two.
    expect(bytesPerToken(model, "ulysses", 16)).toEqual({
      allToAll: (2 * 2 * (8192 + 4096)) / 16,
      neighbours: 0,
    });
    expect(bytesPerToken(model, "ring", 8)).toEqual({ allToAll: 0, neighbours: (2 * 2 * 2048 * 7) / 8 });
    // Keys and values again, and their gradients in f32.
    expect(bytesPerToken({ ...model, pass: "training" }, "ring", 8).neighbours).toBe((2 * 8 * 2048 * 7) / 8);
    expect(bytesPerToken({ ...model, pass: "training" }, "ulysses", 8).allToAll).toBe(
      (2 * 4 * (8192 + 2048)) / 8,
    );
    // 4 x 2: all-to-all within 4, then rings of 2 with 2 of 8 KV heads each.
    expect(bytesPerToken(model, "hybrid", 8, 4)).toEqual({
      allToAll: (2 * 2 * (8192 + 2048)) / 8,
      neighbours: (2 * 2 * 2 * 2 * 128 * 1) / 2,
    });
  });

  it("the one with the least communication is taken: rings where KV heads are few", () => {
    const bandwidth = {
      allToAll: { 2: 100, 4: 100, 8: 100, 16: 100, 32: 100 },
      ring: { 2: 100, 4: 100, 8: 100 },
    };
    const kind = (heads: number, kvHeads: number, degree: number) =>
      chooseKind({ ...published, model: shape(heads, kvHeads), bandwidth }, degree)?.kind;
    // The counts of the specification, where equal factors (P - 1) / P are left out on both sides: Hkv < H / P + max(Hkv, P) / P.
    expect([kind(32, 2, 4), kind(32, 2, 8), kind(64, 8, 4)]).toEqual(["ring", "ring", "ring"]);
    expect(kind(64, 64, 8)).toBe("ulysses");
    // 28 / 7 heads: no Ulysses at all.
    expect(kind(28, 7, 4)).toBe("ring");
    // Beyond the heads: 16 x 2 of both where rings are known, else nothing.
    expect(kind(16, 16, 32)).toBeUndefined();
    const wide = { ...bandwidth, ring: { ...bandwidth.ring, 32: 100 } };
    expect(chooseKind({ ...published, model: shape(16, 16), bandwidth: wide }, 32)).toMatchObject({
      kind: "hybrid",
      ulysses: 16,
      ring: 2,
    });
  });

  it("groups of a plan carry it out", () => {
    const costs = { ...published, model: shape(28, 7), bandwidth: { ring: { 2: 50, 4: 50, 8: 50 } } };
    const plan = planSequenceParallel([40_000, 300, 200], { devices: 8, costs });
    expect(plan.microBatches[0]?.groups[0]).toMatchObject({
      degree: 8,
      attention: "ring",
      ulysses: 1,
      ring: 8,
    });
  });
});

describe("costs files", () => {
  it("come back as they were", () => {
    expect(parseCosts(formatCosts(published), "costs.json")).toEqual(published);
  });

  it.each<[string, string, string, RegExp]>([
    ["no JSON", "{", "ERR_CORRUPT_FILE", /costs\.json: is not JSON/],
    ["something else", '{"a": 1}', "ERR_CORRUPT_FILE", /has no "format": "longhaul-costs"/],
    [
      "a newer version",
      '{"format": "longhaul-costs", "version": 2}',
      "ERR_UNSUPPORTED",
      /of version 2, and this longhaul reads 1/,
    ],
    ["no version", '{"format": "longhaul-costs"}', "ERR_CORRUPT_FILE", /of version undefined/],
    [
      "a missing part",
      '{"format": "longhaul-costs", "version": 1}',
      "ERR_CORRUPT_FILE",
      /costs\.compute must be an object/,
    ],
    [
      "a wrong rate",
      edited((c) => Object.assign(c.bandwidth.allToAll, { 3: 1 })),
      "ERR_CORRUPT_FILE",
      /costs\.bandwidth\.allToAll must be rates by degree/,
    ],
    [
      "a rate of 0",
      edited((c) => Object.assign(c.bandwidth.allToAll, { 2: 0 })),
      "ERR_CORRUPT_FILE",
      /allToAll\.2 must be/,
    ],
    [
      "KV heads that do not divide",
      edited((c) => Object.assign(c.model, { kvHeads: 7 })),
      "ERR_CORRUPT_FILE",
      /kvHeads must be a divisor of the 64 heads/,
    ],
    [
      "no memory",
      edited((c) => Object.assign(c.memory, { tokensPerDevice: 0 })),
      "ERR_CORRUPT_FILE",
      /tokensPerDevice must be an integer of at least 1/,
    ],
  ])("with %s are refused", (_name, text, code, message) => {
    expect(() => parseCosts(text, "costs.json")).toThrow(
      expect.objectContaining({ code, message: expect.stringMatching(message) }),
    );
  });

  function edited(
    change: (costs: {
      compute: object;
      memory: object;
      model: object;
      bandwidth: { allToAll: object };
    }) => void,
  ) {
    const document = JSON.parse(formatCosts(published));
    change(document);
    return JSON.stringify(document);
  }

  it("the published ones say when a model does not fit", () => {
    expect(() => publishedCosts("gpt-30b", { devices: 8 })).toThrow(
      /model states of \d+ MiB on each of 8 devices/,
    );
    expect(() => publishedCosts("gpt-2" as "gpt-7b", { devices: 8 })).toThrow(/name must be one of gpt-7b/);
  });
});

describe("fitting costs to measurements", () => {
  const { msPerTokenSquared, msPerToken, msPerGroup } = published.compute;
  const time = (tokens: number, count: number, degree: number) =>
    (count * (msPerTokenSquared * tokens * tokens + msPerToken * tokens)) / degree + msPerGroup;
  const grid = [512, 2048, 8192, 32_768].flatMap((tokens) =>
    [1, 2, 4].flatMap((count) =>
      [1, 8].map((degree) => ({ tokens, count, degree, ms: time(tokens, count, degree) })),
    ),
  );

  it("finds the coefficients that made the times", () => {
    const fitted = fitComputeCosts(grid);
    expect(fitted.msPerTokenSquared / msPerTokenSquared).toBeCloseTo(1, 9);
    expect(fitted.msPerToken / msPerToken).toBeCloseTo(1, 9);
    expect(fitted.msPerGroup / msPerGroup).toBeCloseTo(1, 9);
  });

  it("finds them nearly when times scatter, and no coefficient is negative", () => {
    const fitted = fitComputeCosts(
      grid.map((one, i) => ({ ...one, ms: one.ms * (1 + 0.02 * Math.sin(7 * i)) })),
    );
    expect(Math.abs(fitted.msPerTokenSquared / msPerTokenSquared - 1)).toBeLessThan(0.05);
    expect(Math.abs(fitted.msPerToken / msPerToken - 1)).toBeLessThan(0.05);
    // Times that fall with the square: the best without a negative coefficient has none there.
    const concave = fitComputeCosts(
      [1, 2, 3, 4].map((n) => ({ tokens: n, count: 1, degree: 1, ms: Math.sqrt(n) })),
    );
    expect(concave.msPerTokenSquared).toBe(0);
    expect(concave.msPerToken).toBeGreaterThan(0);
  });

  it("refuses measurements that say too little", () => {
    expect(() => fitComputeCosts(grid.slice(0, 2))).toThrow(/samples must be an array of at least three/);
    expect(() => fitComputeCosts([...grid.slice(0, 3), { tokens: 0, count: 1, degree: 1, ms: 1 }])).toThrow(
      /samples\[3\]\.tokens/,
    );
    expect(() =>
      fitTokensPerDevice(
        [
          { tokens: 5, peakBytes: 9 },
          { tokens: 5, peakBytes: 9 },
        ],
        100,
      ),
    ).toThrow(/different numbers of tokens/);
  });

  it("bandwidth and memory", () => {
    const samples = [1, 10, 100].map((mib) => ({ bytes: mib * 2 ** 20, ms: mib / 12.5 }));
    expect(fitBandwidth(samples)).toBeCloseTo(12.5, 9);
    const peaks = [1000, 2000, 4000].map((tokens) => ({ tokens, peakBytes: 5e9 + 4.5e6 * tokens }));
    expect(fitTokensPerDevice(peaks, 30e9)).toBe(Math.floor(25e9 / 4.5e6));
  });
});

describe("files of lengths", () => {
  it("hold numbers, or JSON lines of several kinds", () => {
    expect(parseLengths("12\n\n 7\r\n300", "f")).toEqual([12, 7, 300]);
    const lines = [
      '{"tokens": 5}',
      '{"input_ids": [1, 2, 3]}',
      '{"text": "abcdefghi"}',
      '{"length": 9, "text": "x"}',
      "8",
    ];
    expect(parseLengths(lines.join("\n"), "f")).toEqual([5, 3, 3, 9, 8]);
    expect(parseLengths('{"a": "äöü€"}', "f", { field: "a", charactersPerToken: 2 })).toEqual([2]);
  });

  it.each([
    ["12\nfoo", /^f, line 2: foo is neither a number nor JSON/],
    ["12\n\n-3", /^f, line 3: -3 is no number of tokens/],
    ["1.5", /^f, line 1: 1.5 is no number/],
    ['{"words": 3}', /^f, line 1: has none of the fields tokens, /],
    ['{"tokens": "", "text": "a"}', /^f, line 1: 0 is no number/],
    ["[1, 2]", /^f, line 1: \[1,2\] is no number/],
    ["\n", /^f: holds no lengths/],
  ])("%j is refused with its line", (text, message) => {
    expect(() => parseLengths(text, "f")).toThrow(
      expect.objectContaining({ code: "ERR_CORRUPT_FILE", message: expect.stringMatching(message) }),
    );
  });
});

describe("simulated clusters", () => {
  it("bandwidths follow from links: what leaves the node shares its link", () => {
    const { allToAll, ring } = clusterBandwidths({ devices: 64, deviceLink: 80, nodeLink: 40 });
    // Half of what a device holds leaves its node at degree 16, at an eighth of 40.
    expect(allToAll[16]).toBeCloseTo(5 / 0.5, 9);
    expect(allToAll[64]).toBeCloseTo(5 / 0.875, 9);
    expect(allToAll[8]).toBeCloseTo(80 / 0.875, 9);
    expect([ring[8], ring[16]]).toEqual([80, 40]);
    expect(() => clusterBandwidths({ devices: 48, deviceLink: 1, nodeLink: 1 })).toThrow(
      /cluster\.devices must be a power/,
    );
  });

  it("a step takes as long as it was planned to, and every moment of every device is accounted for", () => {
    const lengths = longTailed(3, 256);
    const plan = planSequenceParallel(lengths, { devices: 64, costs: published });
    const step = simulateStep(lengths, plan, published);
    expect(step.ms / plan.ms).toBeCloseTo(1, 12);
    expect(step.compute + step.communication + step.fixed + step.waiting).toBeCloseTo(1, 12);
    const busy = plan.microBatches.flatMap((batch) => batch.groups.map(({ degree, ms }) => degree * ms));
    expect(1 - busy.reduce((a, b) => a + b, 0) / (64 * plan.ms)).toBeCloseTo(step.waiting, 10);
    // Faster links shorten it, and never below what is computed.
    const fast: SequenceParallelCosts = {
      ...published,
      bandwidth: { allToAll: { 2: 1e9, 4: 1e9, 8: 1e9, 16: 1e9, 32: 1e9, 64: 1e9 } },
    };
    expect(simulateStep(lengths, plan, fast).ms).toBeLessThan(step.ms);
    expect(simulateStep(lengths, plan, fast).communication).toBeLessThan(1e-6);
  });
});

describe("the benchmark's lengths", () => {
  const directory = mkdtempSync(join(tmpdir(), "longhaul-planner-"));
  afterAll(() => rmSync(directory, { recursive: true, force: true }));

  it("reach the quantiles that they are made from", async () => {
    const { drawBatch, lengthAt, WIKIPEDIA } = await import(
      new URL("../../bench/planner/lengths.mjs", import.meta.url).href
    );
    for (const [share, length] of WIKIPEDIA.quantiles) expect(lengthAt(share, WIKIPEDIA)).toBe(length);
    const lengths: number[] = drawBatch(WIKIPEDIA, { seed: 1, count: 50_000, limit: 196_608, devices: 64 });
    expect(lengths.every((length) => length % 128 === 0 && length <= 196_608 - 128)).toBe(true);
    const above = lengths.filter((length) => length > 4096).length / lengths.length;
    expect(above).toBeGreaterThan(0.04);
    expect(above).toBeLessThan(0.048);
    expect(drawBatch(WIKIPEDIA, { seed: 1, count: 50_000, limit: 196_608, devices: 64 })).toEqual(lengths);
    const file = join(directory, "lengths.txt");
    writeFileSync(file, lengths.join("\n"));
    expect(parseLengths(readFileSync(file, "utf8"), file)).toEqual(lengths);
  });
});
