import { describe, expect, it } from "vitest";
import {
  certifyPlan,
  checkPlan,
  type PlanOptions,
  planSequenceParallel,
  publishedCosts,
  type SequenceParallelPlan,
} from "../../lib/index.js";
import { loadOf } from "../../lib/planner/bounds.js";
import { searchExactly } from "../../lib/planner/exact.js";
import { readProblem } from "../../lib/planner/options.js";
import { listPartitions } from "../../lib/planner/partitions.js";
import { costsWith, longTailed } from "./support.js";

const options: PlanOptions = { devices: 64, costs: publishedCosts("gpt-7b", { devices: 64 }) };
const batches = "../../bench/planner/lengths.mjs";

describe("certificates", () => {
  it("prove plans of 512 sequences on 64 devices within 1 %, mostly, and 3 %", async () => {
    const { drawBatch, WIKIPEDIA } = await import(new URL(batches, import.meta.url).href);
    const gaps: number[] = [];
    for (let seed = 100; seed < 105; seed++) {
      const lengths: number[] = drawBatch(WIKIPEDIA, { seed, count: 512, limit: 196_608, devices: 64 });
      const plan = planSequenceParallel(lengths, options);
      expect(checkPlan(lengths, plan, options)).toEqual([]);
      expect(planSequenceParallel(lengths, options)).toEqual(plan);
      const { gap } = await certifyPlan(lengths, plan, { ...options, targetGap: 0.008 });
      expect(gap).toBeGreaterThanOrEqual(-1e-9);
      gaps.push(gap);
    }
    gaps.sort((a, b) => a - b);
    expect(gaps[2]).toBeLessThanOrEqual(0.01);
    expect(gaps[4]).toBeLessThanOrEqual(0.03);
  });

  it("never exceed what a search of all groupings finds", async () => {
    for (let seed = 0; seed < 12; seed++) {
      const lengths = longTailed(300 + seed, 9, { median: 3000, max: 24_000 });
      const small: PlanOptions = { devices: 8, costs: costsWith(9000), microBatchOptions: 1 };
      const plan = planSequenceParallel(lengths, small);
      const { boundMs, microBatches } = await certifyPlan(lengths, plan, small);
      const problem = readProblem(lengths, small);
      const { partitions } = listPartitions(8, [1, 2, 4, 8]);
      let best = 0;
      plan.microBatches.forEach(({ groups, ms }, b) => {
        const tokens = groups.flatMap((group) => group.sequences.map((index) => lengths[index] as number));
        tokens.sort((x, y) => y - x);
        const load = loadOf(tokens, problem.degrees, small.costs.compute.msPerGroup, 8);
        const { grouping, complete } = searchExactly(load, partitions, ms);
        expect(complete).toBe(true);
        const optimum = grouping?.makespan ?? ms;
        expect(microBatches[b]?.boundMs).toBeLessThanOrEqual(optimum * (1 + 1e-9));
        best += optimum;
      });
      expect(boundMs).toBeLessThanOrEqual(best * (1 + 1e-9));
    }
  });

  it("hold for clusters with more divisions than can be listed", async () => {
    const costs = {
      ...options.costs,
      bandwidth: { allToAll: { ...options.costs.bandwidth.allToAll, 128: 4.2, 256: 3.9, 512: 3.7 } },
      model: { ...options.costs.model, heads: 512, kvHeads: 512, headDim: 8 },
    };
    const large: PlanOptions = { devices: 256, costs };
    const lengths = longTailed(8, 700);
    const plan = planSequenceParallel(lengths, large);
    expect(checkPlan(lengths, plan, large)).toEqual([]);
    const { gap } = await certifyPlan(lengths, plan, { ...large, targetGap: 0.02 });
    expect(gap).toBeGreaterThanOrEqual(-1e-9);
    expect(gap).toBeLessThan(0.1);
  });

  it("leave the thread to others while they are computed", async () => {
    const lengths = longTailed(1, 512);
    const plan = planSequenceParallel(lengths, options);
    let turns = 0;
    const timer = setInterval(() => turns++, 1);
    await certifyPlan(lengths, plan, options);
    clearInterval(timer);
    expect(turns).toBeGreaterThan(10);
  });

  it("are refused for plans that do not fit, and end with the signal's reason", async () => {
    const lengths = longTailed(1, 200);
    const plan = planSequenceParallel(lengths, options);
    const slower: SequenceParallelPlan = { ...plan, ms: plan.ms * 2 };
    await expect(certifyPlan(lengths, slower, options)).rejects.toMatchObject({
      code: "ERR_INVALID_ARGUMENT",
      message: expect.stringMatching(/does not fit the lengths and costs: ms is/),
    });
    await expect(certifyPlan(lengths, plan, { ...options, signal: AbortSignal.abort("no") })).rejects.toBe(
      "no",
    );
  });
});
