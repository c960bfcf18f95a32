import { LonghaulError } from "../errors.js";
import type { Assignment } from "./assign.js";
import { cutIntoRuns, largestRun, runs } from "./blaster.js";
import { areaBound, areaSums, loadOf } from "./bounds.js";
import { type Degree, weight } from "./degrees.js";
import { type Grouping, groupMicroBatch } from "./micro-batch.js";
import { type Problem, readProblem } from "./options.js";
import { listPartitions, type Partition } from "./partitions.js";
import type { MicroBatch, PlannedGroup, PlanOptions, SequenceParallelPlan } from "./types.js";

/**
 * Plans one step over ragged sequences: which run together, in groups of how many devices, and which sequence
 * goes to which group, so that the step takes as little time as `costs` say it can (FlexSP, arXiv 2412.01523).
 * Sequences are planned with their true lengths; the same arguments give the same plan. It computes for up to
 * some 100 ms and more for hundreds of devices, without giving way to other work of the thread.
 *
 * @param lengths tokens of each sequence
 * @returns a plan that uses every device in each micro-batch. How far it can be from the best: `certifyPlan`
 */
export function planSequenceParallel(lengths: readonly number[], options: PlanOptions): SequenceParallelPlan {
  const problem = readProblem(lengths, options);
  const { partitions } = listPartitions(
    problem.devices,
    problem.degrees.map(({ degree }) => degree),
  );
  const sorted = problem.order.map((index) => problem.lengths[index] as number);
  let best: { readonly ms: number; readonly batches: readonly Planned[] } | undefined;
  const first = fewestMicroBatches(problem, sorted);
  let tried = 0;
  for (let count = first; count <= sorted.length && tried < problem.microBatchOptions; count++) {
    // Whatever comes after the fixed parts only grow.
    if (best !== undefined && stepBound(problem, sorted, count) >= best.ms) break;
    const batches = planRuns(problem, partitions, sorted, count);
    if (batches === null) continue;
    tried++;
    const ms = batches.reduce((sum, { grouping }) => sum + grouping.makespan, 0);
    if (best === undefined || ms < best.ms) best = { ms, batches };
  }
  if (best === undefined) throw noPlan(problem);
  return assemblePlan(
    problem,
    best.batches.map(({ sequences, grouping }) => describeGroups(problem, sequences, grouping.assignment)),
  );
}

interface Planned {
  /** Indices into the lengths, the longest first. */
  readonly sequences: readonly number[];
  readonly grouping: Grouping;
}

function planRuns(
  problem: Problem,
  partitions: readonly Partition[],
  sorted: readonly number[],
  count: number,
): Planned[] | null {
  const planned: Planned[] = [];
  for (const sequences of runs(problem.order, cutIntoRuns(sorted, count))) {
    const tokens = sequences.map((index) => problem.lengths[index] as number);
    const load = loadOf(tokens, problem.degrees, problem.costs.compute.msPerGroup, problem.devices);
    const grouping = groupMicroBatch(load, partitions);
    if (grouping === null) return null;
    planned.push({ sequences, grouping });
  }
  return planned;
}

/** The fewest micro-batches whose tokens fit into the devices, cut by the blaster. */
export function fewestMicroBatches({ devices, costs }: Problem, sorted: readonly number[]): number {
  const capacity = devices * costs.memory.tokensPerDevice;
  let count = Math.max(1, Math.ceil(sorted.reduce((a, b) => a + b, 0) / capacity));
  while (count < sorted.length && largestRun(sorted, cutIntoRuns(sorted, count)) >= capacity) count++;
  return Math.min(count, sorted.length);
}

/**
 * Milliseconds that no plan of at least `count` micro-batches can undercut, however sequences are divided among
 * them.
 */
export function stepBound(
  { degrees, devices, costs }: Problem,
  sorted: readonly number[],
  count: number,
): number {
  const load = loadOf(sorted, degrees, costs.compute.msPerGroup, devices);
  return areaBound(load, areaSums(load)) + (count - 1) * costs.compute.msPerGroup;
}

/** A group as a plan states it, without what depends on the whole step. */
export type Group = Omit<PlannedGroup, "meanLossScale">;

/** The groups of a micro-batch whose sequences, longest first, are assigned. */
export function describeGroups(
  problem: Problem,
  sequences: readonly number[],
  { degreeOf, groupOf }: Pick<Assignment, "degreeOf" | "groupOf">,
): Group[] {
  let firstDevice = 0;
  return Array.from(degreeOf, (c, group) => {
    const degree = problem.degrees[c] as Degree;
    const own = sequences.filter((_, k) => groupOf[k] === group);
    const described = describeGroup(problem, degree, firstDevice, own);
    firstDevice += degree.degree;
    return described;
  });
}

export function describeGroup(
  { lengths, costs }: Problem,
  degree: Degree,
  firstDevice: number,
  sequences: readonly number[],
): Group {
  const own = [...sequences].sort((a, b) => a - b);
  const tokens = own.map((index) => lengths[index] as number);
  const { kind: attention, ulysses, ring } = degree.choice;
  return {
    degree: degree.degree,
    firstDevice,
    attention,
    ulysses,
    ring,
    sequences: own,
    tokens: tokens.reduce((a, b) => a + b, 0),
    ms: tokens.reduce((ms, length) => ms + weight(degree, length), costs.compute.msPerGroup),
  };
}

export function assemblePlan(
  { lengths, devices }: Pick<Problem, "lengths" | "devices">,
  batches: readonly (readonly Group[])[],
): SequenceParallelPlan {
  const tokens = lengths.reduce((a, b) => a + b, 0);
  const microBatches = batches.map(
    (groups): MicroBatch => ({
      groups: groups.map((group) => ({
        ...group,
        meanLossScale: (group.tokens * devices) / (group.degree * tokens),
      })),
      tokens: groups.reduce((sum, group) => sum + group.tokens, 0),
      ms: Math.max(...groups.map(({ ms }) => ms)),
    }),
  );
  return {
    devices,
    sequences: lengths.length,
    tokens,
    microBatches,
    ms: microBatches.reduce((sum, { ms }) => sum + ms, 0),
    tokenLossScale: devices / tokens,
  };
}

function noPlan({ devices, degrees, order }: Problem): LonghaulError {
  const largest = (degrees.at(-1) as Degree).degree;
  return new LonghaulError(
    "ERR_INVALID_ARGUMENT",
    `${order.length} sequences cannot keep ${devices} devices busy in groups of at most ${largest}: each group of each micro-batch needs one; plan for fewer devices, or more sequences at once`,
  );
}
