import { Assignment, assignLongestFirst, improve } from "./assign.js";
import { areaBound, areaSums, type Load, partitionBound } from "./bounds.js";
import { neighbours, type Partition } from "./partitions.js";

/** Partitions that a search begins with: those with the lowest bounds. */
const FIRST = 24;
/** Partitions whose neighbours are looked at next. */
const BEAM = 6;
/** Partitions whose sequences are assigned, at most. */
const MOST_TRIED = 400;
/** Of those, so many are improved by moves. */
const IMPROVED = 16;
/** A plan so near a bound ends the search. */
const NEAR = 1e-4;

export interface Grouping {
  readonly assignment: Assignment;
  readonly makespan: number;
}

/**
 * Groups and their sequences for one micro-batch, or null when the partitions allow none. Longest-first assignment to a
 * few partitions, then to their neighbours as long as they are better; the best of all are improved by moves.
 */
export function groupMicroBatch(load: Load, partitions: readonly Partition[]): Grouping | null {
  const lowest = areaBound(load, areaSums(load));
  const best = search(load, partitions)
    .slice(0, IMPROVED)
    .reduce<Grouping | null>((best, { assignment }) => {
      if (best !== null && best.makespan <= lowest * (1 + NEAR)) return best;
      improve(assignment);
      const makespan = assignment.makespan();
      return best === null || makespan < best.makespan ? { assignment, makespan } : best;
    }, null);
  return best;
}

interface Candidate extends Grouping {
  readonly partition: Partition;
  /** In which order they came: makes ties reproducible. */
  readonly serial: number;
}

/** Candidates, the fastest first. */
function search(load: Load, partitions: readonly Partition[]): Candidate[] {
  const degrees = load.degrees.map(({ degree }) => degree);
  const seen = new Set<string>();
  const found: Candidate[] = [];
  const expanded = new Set<Candidate>();
  let sums = areaSums(load);
  let fastest = Number.POSITIVE_INFINITY;
  let tried = 0;
  const consider = (partition: Partition) => {
    const key = partition.join();
    if (seen.has(key) || tried >= MOST_TRIED) return;
    seen.add(key);
    if (partitionBound(load, sums, partition) >= fastest) return;
    tried++;
    const assignment = assignLongestFirst(load, Assignment.groupsOf(partition));
    if (assignment === null) return;
    const makespan = assignment.makespan();
    found.push({ assignment, makespan, partition, serial: found.length });
    fastest = Math.min(fastest, makespan);
  };

  for (const partition of uniform(load)) consider(partition);
  // What one of them reaches keeps sequences from degrees where they alone take longer, which raises the bounds.
  sums = areaSums(load, fastest);
  for (const partition of lowestBounds(load, sums, partitions)) consider(partition);
  for (;;) {
    found.sort((a, b) => a.makespan - b.makespan || a.serial - b.serial);
    const next = found.slice(0, BEAM).filter((candidate) => !expanded.has(candidate));
    if (next.length === 0 || tried >= MOST_TRIED) return found;
    sums = areaSums(load, fastest);
    for (const candidate of next) {
      expanded.add(candidate);
      for (const partition of neighbours(candidate.partition, degrees)) consider(partition);
    }
  }
}

/** All groups of one degree. */
function uniform({ degrees, devices }: Load): Partition[] {
  return degrees.flatMap(({ degree }, c) => {
    if (devices % degree !== 0) return [];
    const partition = new Int32Array(degrees.length);
    partition[c] = devices / degree;
    return [partition];
  });
}

function lowestBounds(
  load: Load,
  sums: ReturnType<typeof areaSums>,
  partitions: readonly Partition[],
): Partition[] {
  const bounds = Float64Array.from(partitions, (partition) => partitionBound(load, sums, partition));
  return [...bounds.keys()]
    .sort((a, b) => (bounds[a] as number) - (bounds[b] as number) || a - b)
    .slice(0, FIRST)
    .map((index) => partitions[index] as Partition);
}
