import { Assignment, assignLongestFirst, improve } from "./assign.js";
import { areaBound, areaSums, type Load, partitionBound } from "./bounds.js";
import { neighbours, type Partition } from "./partitions.js";

/** Partitions that a search begins with, besides uniform ones: those with the lowest bounds. */
const FIRST = 24;
/** Partitions whose neighbours are looked at next. */
const BEAM = 16;
/** An assignment that is slower than the best by more than this share is not improved. */
const WORTH_IMPROVING = 0.1;
/** A search ends when it has looked at so many places for a sequence. */

/** A plan so near a bound ends the search. */
const NEAR = 1e-4;

export interface Grouping {
  readonly assignment: Assignment;
  readonly makespan: number;
}

interface Candidate extends Grouping {
  readonly partition: Partition;
  /** In which order they came: makes ties reproducible. */
  readonly serial: number;
}

/**
 * Groups and their sequences for one micro-batch, or null when the partitions allow none. Begins with a few partitions
 * and goes on with the neighbours of the best; each is assigned longest first, and improved by moves.
 */
export function groupMicroBatch(load: Load, partitions: readonly Partition[]): Grouping | null {
  const degrees = load.degrees.map(({ degree }) => degree);
  const seen = new Set<string>();
  const found: Candidate[] = [];
  const expanded = new Set<Candidate>();
  let sums = areaSums(load);
  const enough = areaBound(load, sums) * (1 + NEAR);
  let fastest = Number.POSITIVE_INFINITY;
  let effort = 0;
  const consider = (partition: Partition) => {
    const key = partition.join();
    if (seen.has(key) || (effort > EFFORT && found.length > 0) || fastest <= enough) return;
    seen.add(key);
    if (partitionBound(load, sums, partition) >= fastest) return;
    const assignment = assignLongestFirst(load, Assignment.groupsOf(partition));
    effort += load.lengths.length * partition.reduce((a, b) => a + b, 0);
    if (assignment === null) return;
    if (assignment.makespan() < fastest * (1 + WORTH_IMPROVING)) effort += improve(assignment);
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
    if (next.length === 0 || effort > EFFORT || fastest <= enough) return found[0] ?? null;
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
