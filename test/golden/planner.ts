// The kind of the planner: exact optima of small instances, bounds of large ones, and the planner's parts.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { cutIntoRuns, largestRun } from "../../lib/planner/blaster.js";
import { bucketEnds } from "../../lib/planner/buckets.js";
import { certifyPlan } from "../../lib/planner/certificate.js";
import { checkPlan } from "../../lib/planner/check.js";
import type { SequenceParallelCosts } from "../../lib/planner/costs.js";
import { readProblem } from "../../lib/planner/options.js";
import { fewestMicroBatches, planSequenceParallel } from "../../lib/planner/plan.js";
import { polishPlan } from "../../lib/planner/polish.js";
import type { Case } from "./cases.js";
import { differing } from "./limits.js";
import type { Report } from "./report.js";

// biome-ignore lint/suspicious/noExplicitAny: members that are missing or of another kind fail to compare.
type Json = any;

export async function runPlanner(report: Report, one: Case): Promise<void> {
  const { name, kind = "", json } = one;
  const tell = (quantity: string, verdict: ReturnType<typeof differing>) =>
    report.quantity({ case: name, kind, quantity, ...verdict });
  const read = (file: string): Json[] => JSON.parse(readFileSync(join(one.directory, file), "utf8"));

  for (const instance of read("instances.json")) {
    for (const [suffix, minDegree] of [
      ["", 1],
      ["_dmin2", 2],
    ] as const) {
      const optimum = instance[`optimal_makespan_ms${suffix}`];
      const options = optionsOf(json, instance, minDegree);
      const plan = planSequenceParallel(instance.lengths, options);
      const quantity = `instance_${instance.id}${suffix}`;
      tell(`${quantity}.valid`, differing([checkPlan(instance.lengths, plan, options).length], [0]));
      const { above_optimum_rel, below_optimum_rel } = json.limits.heuristic;
      tell(`${quantity}.heuristic`, between(plan.ms / optimum - 1, -below_optimum_rel, above_optimum_rel));
      const exact = await polishPlan(instance.lengths, plan, options);
      const { optimum_rel } = json.limits.optimum;
      tell(`${quantity}.optimum`, between(exact.ms / optimum - 1, -optimum_rel, optimum_rel));
    }
  }
  for (const instance of read("large.json")) {
    for (const [bounds, minDegree] of [
      [instance.bounds, 1],
      [instance.bounds_dmin2, 2],
    ] as const) {
      const options = optionsOf(json, instance, minDegree);
      const plan = planSequenceParallel(instance.lengths, options);
      const { boundMs, step } = await certifyPlan(instance.lengths, plan, options);
      const quantity = `large_${instance.name}.${minDegree}`;
      tell(`${quantity}.area`, between(step.boundMs / bounds.lower_bound - 1, -1e-9, 1e-9));
      tell(`${quantity}.bound`, between(boundMs / bounds.lower_bound - 1, -1e-9, Infinity));
      tell(`${quantity}.plan`, between(plan.ms / boundMs - 1, -1e-9, Infinity));
    }
  }
  for (const [i, { lengths, Q, optimal_padding_tokens }] of read("bucketing.json").entries()) {
    const ends = bucketEnds(lengths, Q);
    const padding = (lengths as number[]).reduce(
      (sum, length, k) => sum + (lengths[(ends.find((end) => end > k) as number) - 1] as number) - length,
      0,
    );
    tell(`bucketing_${i}`, differing([ends.length, padding], [Q, optimal_padding_tokens]));
  }
  for (const instance of read("blaster.json")) {
    const { lengths, largest_chunk_tokens } = instance;
    const fewest = fewestMicroBatches(readProblem(lengths, optionsOf(json, instance, 1)), lengths);
    tell(`blaster_${instance.name}.fewest`, differing([fewest], [instance.M_min]));
    const counts = Object.keys(largest_chunk_tokens).map(Number);
    const largest = counts.map((count) => largestRun(lengths, cutIntoRuns(lengths, count)));
    tell(`blaster_${instance.name}.largest`, differing(largest, Object.values(largest_chunk_tokens)));
  }
}

/** An instance is one micro-batch. */
function optionsOf({ cost_constants }: Json, { N, cap_tokens_per_device }: Json, minDegree: number) {
  const { L, h, a1, a2, b1, v } = cost_constants;
  const costs: SequenceParallelCosts = {
    compute: { msPerTokenSquared: a1, msPerToken: a2, msPerGroup: b1 },
    memory: { tokensPerDevice: cap_tokens_per_device },
    model: { layers: L, heads: 64, kvHeads: 64, headDim: h / 64 },
    bandwidth: { allToAll: v },
  };
  return { devices: N as number, costs, minDegree, microBatchOptions: 1 };
}

function between(error: number, least: number, most: number): ReturnType<typeof differing> {
  const pass = error >= least && error <= most;
  return { error, limit: most, pass, where: `${error} is not from ${least} to ${most}` };
}
