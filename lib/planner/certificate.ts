import { LonghaulError, requireNumber, throwIfAborted } from "../errors.js";
import { areaBound, areaSums, type Load, loadOf, partitionBound } from "./bounds.js";
import { checkPlan } from "./check.js";
import { linearProgram, priceBound, pricesOf, relax } from "./class-relaxation.js";
import { type Problem, readProblem } from "./options.js";
import { listPartitions, type Partition } from "./partitions.js";
import { stepBound } from "./plan.js";
import { Solver } from "./solver.js";
import type { PlanOptions, SequenceParallelPlan } from "./types.js";

export interface CertifyOptions extends PlanOptions {
  /** A bound so near, as a share of itself, is good enough. Default 0: as near as the relaxation gets. */
  readonly targetGap?: number;
  readonly signal?: AbortSignal;
}

/** How far a plan can be from the best, proven. A gap is ms / boundMs - 1. */
export interface Certificate {
  /** No plan with these micro-batches can take less, whatever its groups. */
  readonly boundMs: number;
  readonly gap: number;
  readonly microBatches: readonly { readonly boundMs: number; readonly gap: number }[];
  /** No plan at all can take less, however it divides sequences into micro-batches: a weaker bound. */
  readonly step: { readonly boundMs: number; readonly gap: number };
  /** Relaxations that were solved. */
  readonly models: number;
}

/**
 * A search ends after so many relaxations of a micro-batch; the bound holds, but may be lower than it could be.
 */
const MOST_MODELS = 200;
/** Shares of the bound that are rounding. */
const ROUNDING = 1e-9;

/**
 * Proves how good a plan is: bounds from below for each micro-batch over all divisions of the devices into
 * groups, by linear programs (HiGHS in a worker thread). For more divisions than 30,000 small degrees are
 * pooled, which keeps the bound valid and makes it weaker. Takes from some 10 ms to seconds.
 */
export async function certifyPlan(
  lengths: readonly number[],
  plan: SequenceParallelPlan,
  options: CertifyOptions,
): Promise<Certificate> {
  const problem = readProblem(lengths, options);
  const targetGap = requireNumber("targetGap", options.targetGap ?? 0, 0);
  const faults = checkPlan(lengths, plan, options);
  if (faults.length > 0)
    throw new LonghaulError(
      "ERR_INVALID_ARGUMENT",
      `the plan does not fit the lengths and costs: ${faults[0]}`,
    );
  throwIfAborted(options.signal);

  const degrees = problem.degrees.map(({ degree }) => degree);
  const { first, partitions } = listPartitions(problem.devices, degrees);
  const pooled = partitions.map((partition) => partition.slice(first));
  await using solver = new Solver(options.signal);
  const microBatches: { boundMs: number; gap: number; models: number }[] = [];
  for (const { groups, ms } of plan.microBatches) {
    const tokens = groups.flatMap(({ sequences }) => sequences.map((index) => lengths[index] as number));
    const load = loadOf(
      tokens.sort((a, b) => b - a),
      problem.degrees,
      problem.costs.compute.msPerGroup,
      problem.devices,
    );
    const { boundMs, models } = await boundMicroBatch(load, first, pooled, ms, targetGap, solver);
    microBatches.push({ boundMs, gap: ms / boundMs - 1, models });
  }
  const boundMs = microBatches.reduce((sum, batch) => sum + batch.boundMs, 0);
  const stepBoundMs = stepOf(problem);
  return {
    boundMs,
    gap: plan.ms / boundMs - 1,
    microBatches: microBatches.map(({ boundMs, gap }) => ({ boundMs, gap })),
    step: { boundMs: stepBoundMs, gap: plan.ms / stepBoundMs - 1 },
    models: microBatches.reduce((sum, { models }) => sum + models, 0),
  };
}

/** Milliseconds that no plan of the step can undercut. Costs nothing but a pass over the sequences. */
export function planLowerBound(lengths: readonly number[], options: PlanOptions): number {
  return stepOf(readProblem(lengths, options));
}

function stepOf(problem: Problem): number {
  const sorted = problem.order.map((index) => problem.lengths[index] as number);
  const capacity = problem.devices * problem.costs.memory.tokensPerDevice;
  const fewest = Math.ceil(sorted.reduce((a, b) => a + b, 0) / capacity);
  return stepBound(problem, sorted, fewest);
}

async function boundMicroBatch(
  load: Load,
  first: number,
  partitions: readonly Partition[],
  makespan: number,
  targetGap: number,
  solver: Solver,
): Promise<{ boundMs: number; models: number }> {
  const lowest = areaBound(load, areaSums(load));
  const enough = (bound: number) => makespan <= bound * (1 + Math.max(targetGap, ROUNDING));
  if (enough(lowest)) return { boundMs: Math.min(lowest, makespan), models: 0 };

  // What holds for all plans below the makespan bounds the best plan, or the makespan does.
  const relaxation = relax(load, first, makespan);
  const sums = areaSums(relaxation.load);
  const bounds = Float64Array.from(partitions, (partition) =>
    Math.min(makespan, Math.max(lowest, partitionBound(relaxation.load, sums, partition))),
  );
  const solved = new Set<number>();
  for (;;) {
    const least = indexOfLeast(bounds);
    const bound = bounds[least] as number;
    if (enough(bound) || solved.has(least) || solved.size >= MOST_MODELS)
      return { boundMs: bound, models: solved.size };
    solved.add(least);
    const partition = partitions[least] as Partition;
    const { status, rowDuals } = await solver.solve(linearProgram(relaxation, partition));
    if (status === "infeasible") {
      bounds[least] = makespan;
      continue;
    }
    if (status !== "optimal")
      throw new LonghaulError(
        "ERR_INTERNAL",
        `a relaxation ended with "${status}"; report it with the lengths`,
      );
    const prices = pricesOf(relaxation, partition, rowDuals);
    for (let p = 0; p < partitions.length; p++) {
      const byPrices = Math.min(makespan, priceBound(relaxation, prices, partitions[p] as Partition));
      bounds[p] = Math.max(bounds[p] as number, byPrices);
    }
  }
}

function indexOfLeast(values: Float64Array): number {
  let least = 0;
  for (let i = 1; i < values.length; i++) if ((values[i] as number) < (values[least] as number)) least = i;
  return least;
}
