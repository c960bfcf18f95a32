import { describe, expect, it } from "vitest";
import { seededRandom } from "../../lib/episodes/random.js";
import {
  checkPlan,
  type PlanOptions,
  planBestStaticDegree,
  planChart,
  planFlexsp,
  planLowerBound,
  planPage,
  planSequenceParallel,
  planStaticDegree,
  polishPlan,
  publishedCosts,
  type SequenceParallelCosts,
} from "../../lib/index.js";
import { countPartitions, listPartitions } from "../../lib/planner/partitions.js";
import { costsWith, longTailed } from "./support.js";

const costs64 = publishedCosts("gpt-7b", { devices: 64 });

describe("planSequenceParallel", () => {
  it("gives valid plans above the bound, the same each time, for clusters of all sizes", () => {
    for (const devices of [1, 2, 6, 16, 24, 64, 100, 256]) {
      const options: PlanOptions = { devices, costs: { ...costs64, ...rates(devices) } };
      const lengths = longTailed(devices, 4 * devices + 3, { max: 6449 * Math.min(devices, 16) });
      const plan = planSequenceParallel(lengths, options);
      expect(checkPlan(lengths, plan, options), `${devices} devices`).toEqual([]);
      expect(plan.ms).toBeGreaterThanOrEqual(planLowerBound(lengths, options) * (1 - 1e-9));
      expect(planSequenceParallel(lengths, options)).toEqual(plan);
    }
  });

  it("plans thousands of sequences", () => {
    const lengths = longTailed(6, 20_000, { max: 30_000 });
    const options: PlanOptions = { devices: 64, costs: costsWith(200_000) };
    const plan = planSequenceParallel(lengths, options);
    expect(checkPlan(lengths, plan, options)).toEqual([]);
    expect(plan.ms / planLowerBound(lengths, options)).toBeLessThan(1.02);
  });

  it("does not depend on the order of the sequences but in the indices", () => {
    const lengths = longTailed(4, 128);
    const options: PlanOptions = { devices: 32, costs: costs64 };
    const plan = planSequenceParallel(lengths, options);
    const reversed = planSequenceParallel([...lengths].reverse(), options);
    expect(reversed.ms).toBeCloseTo(plan.ms, 6);
    expect(checkPlan([...lengths].reverse(), reversed, options)).toEqual([]);
  });

  it("gives long sequences large groups and beats every single degree", () => {
    // FlexSP's own example, 1 x 100K and 4 x 48K on 64 devices.
    const lengths = [100_000, 48_000, 48_000, 48_000, 48_000];
    const options: PlanOptions = { devices: 64, costs: costs64 };
    const plan = planSequenceParallel(lengths, options);
    const [largest, ...others] = plan.microBatches[0]?.groups ?? [];
    expect([largest?.degree, largest?.sequences]).toEqual([32, [0]]);
    expect(others.map(({ degree }) => degree)).toEqual([8, 8, 8, 8]);
    expect(planBestStaticDegree(lengths, options)?.plan.ms).toBeGreaterThan(1.2 * plan.ms);
  });

  it("cuts more micro-batches than must be when that pays, and no more than it may", () => {
    const lengths = [...longTailed(5, 60), 30_000];
    const cheap: SequenceParallelCosts = { ...costs64, compute: { ...costs64.compute, msPerGroup: 0 } };
    const options: PlanOptions = { devices: 16, costs: cheap };
    const free = planSequenceParallel(lengths, options);
    const bound = planSequenceParallel(lengths, { ...options, microBatchOptions: 1 });
    expect(free.ms).toBeLessThanOrEqual(bound.ms);
    expect(bound.microBatches.length).toBeLessThanOrEqual(free.microBatches.length);
  });

  it("weighs every token alike whatever the plan", () => {
    const random = seededRandom(11);
    const lengths = longTailed(9, 70, { max: 60_000 });
    const losses = lengths.map((length) => Array.from({ length: 4 }, () => (random() * length) / 4));
    const truth = losses.flat().reduce((a, b) => a + b, 0) / lengths.reduce((a, b) => a + b, 0);
    for (const devices of [8, 16, 64]) {
      const options: PlanOptions = { devices, costs: costsWith(9000) };
      for (const plan of [
        planSequenceParallel(lengths, options),
        planStaticDegree(lengths, options, 8),
        planSequenceParallel(lengths, { ...options, minDegree: 4 }),
      ]) {
        // Ranks of a group hold equal parts of its tokens; gradients are averaged over ranks, summed over micro-batches.
        let bySums = 0;
        let byMeans = 0;
        for (const { groups } of plan.microBatches) {
          for (const { degree, sequences, tokens, meanLossScale } of groups) {
            const sum = sequences.reduce(
              (all, s) => all + (losses[s] as number[]).reduce((a, b) => a + b, 0),
              0,
            );
            for (let rank = 0; rank < degree; rank++) {
              const own = sum / degree;
              bySums += (own * plan.tokenLossScale) / devices;
              if (tokens > 0) byMeans += ((own / (tokens / degree)) * meanLossScale) / devices;
            }
          }
        }
        expect(bySums / truth).toBeCloseTo(1, 10);
        expect(byMeans / truth).toBeCloseTo(1, 10);
      }
    }
  });

  it.each<[string, unknown, unknown, RegExp]>([
    ["no lengths", [], { devices: 8, costs: costs64 }, /lengths must be an array/],
    ["a length of 0", [5, 0], { devices: 8, costs: costs64 }, /lengths\[1\] must be an integer of at least 1/],
    ["a fraction", [5.5], { devices: 8, costs: costs64 }, /lengths\[0\] must be an integer/],
    [
      "too long a sequence",
      [5, 60_000],
      { devices: 8, costs: costs64 },
      /lengths\[1\] is 60000 tokens, .* 8 devices, has memory for 51592/,
    ],
    ["no devices", [5], { devices: 0, costs: costs64 }, /devices must be an integer from 1 to 4096/],
    ["no costs", [5], { devices: 8 }, /costs must be an object/],
    [
      "a negative cost",
      [5],
      { devices: 8, costs: { ...costs64, compute: { ...costs64.compute, msPerToken: -1 } } },
      /costs\.compute\.msPerToken/,
    ],
    [
      "a degree that is no power",
      [5],
      { devices: 8, costs: costs64, minDegree: 3 },
      /minDegree must be a power of two from 1 to 8/,
    ],
    [
      "an empty range of degrees",
      [5],
      { devices: 8, costs: costs64, minDegree: 8, maxDegree: 4 },
      /maxDegree must be/,
    ],
    [
      "a kind that is none",
      [5],
      { devices: 8, costs: costs64, attention: ["flash"] },
      /attention\[0\] must be one of/,
    ],
    [
      "kinds without a rate",
      [5],
      { devices: 8, costs: costs64, minDegree: 2, attention: ["ring"] },
      /no degree from 2 to 8/,
    ],
    [
      "too few sequences for small groups",
      [5],
      { devices: 8, costs: costs64, maxDegree: 2 },
      /1 sequences cannot keep 8 devices busy/,
    ],
  ])("refuses %s", (_name, lengths, options, message) => {
    expect(() => planSequenceParallel(lengths as number[], options as PlanOptions)).toThrow(
      expect.objectContaining({ code: "ERR_INVALID_ARGUMENT", message: expect.stringMatching(message) }),
    );
  });
});

describe("other plans", () => {
  const lengths = longTailed(21, 64, { median: 700, sigma: 1.4, max: 64_000 });
  const options: PlanOptions = { devices: 16, costs: costsWith(12_000) };

  it("FlexSP's integer program gives a valid plan, no better than the bound", async () => {
    const flexsp = await planFlexsp(lengths, { ...options, minDegree: 2, seconds: 1 });
    expect(checkPlan(lengths, flexsp, { ...options, minDegree: 2 })).toEqual([]);
    expect(flexsp.ms).toBeGreaterThanOrEqual(
      planLowerBound(lengths, { ...options, minDegree: 2 }) * (1 - 1e-9),
    );
    const uniform = planBestStaticDegree(lengths, { ...options, minDegree: 2 });
    expect(flexsp.ms).toBeLessThanOrEqual((uniform?.plan.ms as number) * 1.02);
  });

  it("FlexSP's integer program is exact where nothing is rounded", async () => {
    const few = [9000, 5200, 4100, 800, 300, 200];
    const small: PlanOptions = { devices: 4, costs: costsWith(6449), microBatchOptions: 1 };
    const best = await polishPlan(few, planSequenceParallel(few, small), small);
    const flexsp = await planFlexsp(few, { ...small, seconds: 20 });
    expect(flexsp.ms / best.ms).toBeCloseTo(1, 6);
  });

  it("polishing never makes a plan worse", async () => {
    const plan = planSequenceParallel(lengths, options);
    const polished = await polishPlan(lengths, plan, { ...options, seconds: 1 });
    expect(checkPlan(lengths, polished, options)).toEqual([]);
    expect(polished.ms).toBeLessThanOrEqual(plan.ms);
  });

  it("polishing improves a plan that is bad", async () => {
    const plan = planStaticDegree(lengths, options, 8);
    const polished = await polishPlan(lengths, plan, { ...options, seconds: 2 });
    expect(polished.ms).toBeLessThan(plan.ms);
  });

  it("an abort ends them with its reason", async () => {
    const stop = new AbortController();
    const running = planFlexsp(lengths, { ...options, seconds: 60, signal: stop.signal });
    setTimeout(() => stop.abort(new Error("enough")), 300);
    await expect(running).rejects.toThrow("enough");
    await expect(planFlexsp(lengths, { ...options, signal: AbortSignal.abort("before") })).rejects.toBe(
      "before",
    );
  });
});

describe("partitions", () => {
  it("are as many as there are ways to write a number as a sum of powers of two", () => {
    // OEIS A018819 at 16, 32, 64 and 128.
    for (const [devices, ways] of [
      [16, 36],
      [32, 202],
      [64, 1828],
      [128, 27_338],
    ] as const) {
      const degrees = Array.from({ length: Math.log2(devices) + 1 }, (_, i) => 2 ** i);
      expect(countPartitions(devices, degrees)).toBe(ways);
      const { first, partitions } = listPartitions(devices, degrees);
      expect([first, partitions.length]).toEqual([0, ways]);
      const sums = partitions.map((partition) =>
        partition.reduce((sum, n, c) => sum + n * (degrees[c] as number), 0),
      );
      expect(new Set(sums)).toEqual(new Set([devices]));
      expect(new Set(partitions.map((partition) => partition.join())).size).toBe(ways);
    }
  });

  it("begin with a larger degree where there are too many", () => {
    const degrees = Array.from({ length: 11 }, (_, i) => 2 ** i);
    expect(listPartitions(1024, degrees)).toMatchObject({ first: 3, partitions: { length: 27_338 } });
  });
});

describe("pictures of a plan", () => {
  const lengths = longTailed(2, 200);
  const plan = planSequenceParallel(lengths, { devices: 64, costs: costs64 });

  it("the chart keeps to the width and shows every device and sequence", () => {
    for (const width of [40, 60, 100, 200]) {
      const lines = planChart(plan, width).split("\n");
      if (width >= 60) expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(width);
      const shown = lines.flatMap((line) => / (\d+) seq /.exec(line)?.[1] ?? []);
      expect(shown.reduce((sum, one) => sum + Number(one), 0)).toBe(200);
    }
    expect(planChart(plan, 100)).not.toContain("\u001b");
    expect(planChart(plan, 100, true)).toContain("\u001b[3");
  });

  it("the page is whole, fetches nothing and escapes what it is told", () => {
    const page = planPage(plan, { title: "a <b> & c", summary: ["<script>"] });
    expect(page).toContain("<title>a &lt;b&gt; &amp; c</title>");
    expect(page).not.toMatch(/<script|https?:|src=/);
    const groups = plan.microBatches.flatMap((batch) => batch.groups);
    expect(page.match(/<rect class="group/g)).toHaveLength(groups.length);
  });
});

/** Rates beyond 64 devices, which were not published. */
function rates(devices: number): Pick<SequenceParallelCosts, "bandwidth"> {
  const { allToAll } = costs64.bandwidth;
  return { bandwidth: { allToAll: { ...allToAll, ...(devices > 64 ? { 128: 4.2, 256: 3.9 } : {}) } } };
}
