import { LonghaulError, requireOneOf } from "../errors.js";
import type { Degree } from "./degrees.js";
import { type Problem, readProblem } from "./options.js";
import { assemblePlan, describeGroup } from "./plan.js";
import type { PlanOptions, SequenceParallelPlan } from "./types.js";

/** Bins are not filled to the brim, as in the published baseline. */
const FILL = 0.9;

/**
 * The plan without a choice of degrees that FlexSP is compared with: all groups have one degree, sequences are
 * packed best fit decreasing into bins of 0.9 of a group's memory, each micro-batch takes as many bins as there
 * are groups, and the last one is evened out. ERR_INVALID_ARGUMENT when a sequence does not fit into a group of
 * that degree.
 */
export function planStaticDegree(
  lengths: readonly number[],
  options: PlanOptions,
  degree: number,
): SequenceParallelPlan {
  const problem = readProblem(lengths, options);
  const known = problem.degrees.map((one) => String(one.degree));
  requireOneOf("degree", String(degree), known);
  const chosen = problem.degrees.find((one) => one.degree === degree) as Degree;
  if (problem.devices % degree !== 0)
    throw new LonghaulError(
      "ERR_INVALID_ARGUMENT",
      `degree ${degree} does not divide ${problem.devices} devices`,
    );
  const groups = problem.devices / degree;
  const bins = packBestFit(problem, chosen);
  const batches: number[][][] = [];
  for (let at = 0; at < bins.length; at += groups) batches.push(bins.slice(at, at + groups));
  batches.push(evenOut(problem, chosen, batches.pop() ?? [], groups));
  return assemblePlan(
    problem,
    batches.map((batch) => batch.map((bin, index) => describeGroup(problem, chosen, index * degree, bin))),
  );
}

/**
 * The fastest of the plans with one degree, chosen anew for each step ("BatchAda"). Undefined when none is
 * feasible.
 */
export function planBestStaticDegree(
  lengths: readonly number[],
  options: PlanOptions,
): { readonly degree: number; readonly plan: SequenceParallelPlan } | undefined {
  const { degrees, devices, order } = readProblem(lengths, options);
  const longest = lengths[order[0] as number] as number;
  const plans = degrees
    .filter(({ degree, capacity }) => capacity >= longest && devices % degree === 0)
    .map(({ degree }) => ({ degree, plan: planStaticDegree(lengths, options, degree) }));
  return plans.reduce<(typeof plans)[number] | undefined>(
    (best, one) => (best === undefined || one.plan.ms < best.plan.ms ? one : best),
    undefined,
  );
}

function packBestFit({ lengths, order }: Problem, { degree, capacity }: Degree): number[][] {
  const most = FILL * capacity;
  const bins: { readonly sequences: number[]; tokens: number }[] = [];
  for (const index of order) {
    const length = lengths[index] as number;
    if (length > capacity) {
      throw new LonghaulError(
        "ERR_INVALID_ARGUMENT",
        `lengths[${index}] is ${length} tokens, and a group of degree ${degree} has memory for ${capacity}`,
      );
    }
    let fullest: (typeof bins)[number] | undefined;
    for (const bin of bins) {
      if (bin.tokens + length <= most && (fullest === undefined || bin.tokens > fullest.tokens)) fullest = bin;
    }
    if (fullest === undefined) bins.push({ sequences: [index], tokens: length });
    else {
      fullest.sequences.push(index);
      fullest.tokens += length;
    }
  }
  return bins.map(({ sequences }) => sequences);
}

/** Spreads the sequences of some bins over all groups, longest first to the one with the fewest tokens. */
function evenOut({ lengths }: Problem, { capacity }: Degree, bins: number[][], groups: number): number[][] {
  const even = Array.from({ length: groups }, () => ({ sequences: [] as number[], tokens: 0 }));
  const sequences = bins.flat().sort((a, b) => (lengths[b] as number) - (lengths[a] as number) || a - b);
  for (const index of sequences) {
    const emptiest = even.reduce((a, b) => (b.tokens < a.tokens ? b : a));
    emptiest.sequences.push(index);
    emptiest.tokens += lengths[index] as number;
  }
  return even.every(({ tokens }) => tokens <= capacity) ? even.map((bin) => bin.sequences) : bins;
}
