import { LonghaulError, requireInteger, requireNumber, throwIfAborted } from "../errors.js";
import { Assignment, assignLongestFirst } from "./assign.js";
import { cutIntoRuns, runs } from "./blaster.js";
import { type Load, loadOf } from "./bounds.js";
import { checkPlan } from "./check.js";
import type { Degree } from "./degrees.js";
import { searchExactly } from "./exact.js";
import { allCandidates, exactBuckets, flexspBuckets, groupModel, readSolution } from "./flexsp-model.js";
import { type Problem, readProblem } from "./options.js";
import { listPartitions } from "./partitions.js";
import { assemblePlan, describeGroup, describeGroups, fewestMicroBatches, type Group } from "./plan.js";
import { Solver } from "./solver.js";
import type { PlanOptions, SequenceParallelPlan } from "./types.js";

/** Time limit of a micro-batch. */
export const DEFAULT_SECONDS = 5;

export interface PolishOptions extends PlanOptions {
  /** For each micro-batch. Default 5. */
  readonly seconds?: number;
  readonly signal?: AbortSignal;
}

export interface FlexspOptions extends PolishOptions {
  /** Buckets of lengths. Default 16, FlexSP's. */
  readonly buckets?: number;
}

/** As many sequences can be searched exactly. */
const FEW = 12;

/**
 * Looks for a better grouping of each micro-batch: all of them where there are few sequences, else by an
 * integer program that begins with the plan and keeps the degrees of its groups. Never worse; as long as the
 * time allows, so two runs need not give the same plan.
 */
export async function polishPlan(
  lengths: readonly number[],
  plan: SequenceParallelPlan,
  options: PolishOptions,
): Promise<SequenceParallelPlan> {
  const problem = readProblem(lengths, options);
  const seconds = requireNumber("seconds", options.seconds ?? DEFAULT_SECONDS, 0.001);
  const faults = checkPlan(lengths, plan, options);
  if (faults.length > 0)
    throw new LonghaulError(
      "ERR_INVALID_ARGUMENT",
      `the plan does not fit the lengths and costs: ${faults[0]}`,
    );
  throwIfAborted(options.signal);
  const { first, partitions } = listPartitions(
    problem.devices,
    problem.degrees.map(({ degree }) => degree),
  );
  await using solver = new Solver(options.signal);
  const batches: Group[][] = [];
  for (const { groups, ms } of plan.microBatches) {
    const { load, sequences } = loadOfGroups(problem, groups);
    if (sequences.length <= FEW && first === 0) {
      const { grouping } = searchExactly(load, partitions, ms);
      batches.push(grouping === null ? [...groups] : describeGroups(problem, sequences, grouping.assignment));
      continue;
    }
    const start = assignmentOf(load, problem, groups, sequences);
    const asked = groupModel(load, exactBuckets(load), start.degreeOf, { start, choose: false, seconds });
    const { values } = await solver.solve(asked.model);
    const found = groupsOf(problem, sequences, readSolution(asked, values, false));
    batches.push(found !== null && slowest(found) < ms ? found : [...groups]);
  }
  return assemblePlan(problem, batches);
}

/**
 * FlexSP's own way, for comparison: bucketed lengths, an integer program over all candidate groups with a time
 * limit, and concrete sequences for the buckets' afterwards. Takes the fewest micro-batches. ERR_UNSUPPORTED
 * when no solution is found in time.
 */
export async function planFlexsp(
  lengths: readonly number[],
  options: FlexspOptions,
): Promise<SequenceParallelPlan> {
  const problem = readProblem(lengths, options);
  const seconds = requireNumber("seconds", options.seconds ?? DEFAULT_SECONDS, 0.001);
  const count = requireInteger("buckets", options.buckets ?? 16, 1);
  throwIfAborted(options.signal);
  const sorted = problem.order.map((index) => lengths[index] as number);
  const begins = cutIntoRuns(sorted, fewestMicroBatches(problem, sorted));
  await using solver = new Solver(options.signal);
  const batches: Group[][] = [];
  for (const sequences of runs(problem.order, begins)) {
    const load = loadOf(
      sequences.map((index) => lengths[index] as number),
      problem.degrees,
      problem.costs.compute.msPerGroup,
      problem.devices,
    );
    const buckets = flexspBuckets(load, count);
    const start = uniformStart(load, buckets);
    const asked = groupModel(load, buckets, allCandidates(load), {
      ...(start === undefined ? {} : { start }),
      choose: true,
      seconds,
    });
    const { values, status } = await solver.solve(asked.model);
    const found = groupsOf(problem, sequences, readSolution(asked, values, true));
    if (found === null) {
      throw new LonghaulError(
        "ERR_UNSUPPORTED",
        `the integer program of ${sequences.length} sequences found no grouping (${status}); give it more than ${seconds} s, or more buckets than ${count}`,
      );
    }
    batches.push(found);
  }
  return assemblePlan(problem, batches);
}

/** Groups, the largest first, of a micro-batch with `sequences`; null when they are not all there. */
function groupsOf(
  problem: Problem,
  sequences: readonly number[],
  groups: readonly { readonly degree: number; readonly sequences: readonly number[] }[],
): Group[] | null {
  if (groups.reduce((sum, group) => sum + group.sequences.length, 0) !== sequences.length) return null;
  let firstDevice = 0;
  return [...groups]
    .sort((a, b) => b.degree - a.degree)
    .map((group) => {
      const degree = problem.degrees[group.degree] as Degree;
      const own = group.sequences.map((k) => sequences[k] as number);
      const described = describeGroup(problem, degree, firstDevice, own);
      firstDevice += degree.degree;
      return described;
    });
}

const slowest = (groups: readonly Group[]) => Math.max(...groups.map(({ ms }) => ms));

function loadOfGroups(problem: Problem, groups: readonly Group[]): { load: Load; sequences: number[] } {
  const { lengths, degrees, costs, devices } = problem;
  const sequences = groups
    .flatMap((group) => group.sequences)
    .sort((a, b) => (lengths[b] as number) - (lengths[a] as number) || a - b);
  const tokens = sequences.map((index) => lengths[index] as number);
  return { load: loadOf(tokens, degrees, costs.compute.msPerGroup, devices), sequences };
}

function assignmentOf(
  load: Load,
  { degrees }: Problem,
  groups: readonly Group[],
  sequences: readonly number[],
): Assignment {
  const degreeOf = Int32Array.from(groups, (group) =>
    degrees.findIndex(({ degree }) => degree === group.degree),
  );
  const assignment = new Assignment(load, degreeOf);
  const at = new Map(sequences.map((index, k) => [index, k]));
  groups.forEach((group, g) => {
    for (const index of group.sequences) assignment.put(at.get(index) as number, g);
  });
  return assignment;
}

/**
 * The fastest with groups of one degree, when lengths count as their buckets': what the published solver starts
 * from.
 */
function uniformStart(load: Load, buckets: readonly { tokens: number; sequences: readonly number[] }[]) {
  const { degrees, devices, fixed } = load;
  const tokens = new Float64Array(load.lengths.length);
  for (const bucket of buckets) for (const k of bucket.sequences) tokens[k] = bucket.tokens;
  const counted = loadOf(tokens, degrees, fixed, devices);
  let best: Assignment | undefined;
  degrees.forEach(({ degree }, c) => {
    if (devices % degree !== 0) return;
    const assignment = assignLongestFirst(counted, new Int32Array(devices / degree).fill(c));
    if (assignment !== null && (best === undefined || assignment.makespan() < best.makespan()))
      best = assignment;
  });
  return best;
}
