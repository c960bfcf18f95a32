import { Assignment, assignLongestFirst, improve } from "./assign.js";
import { areaBound, areaSums, type Load, partitionBound } from "./bounds.js";
import { neighbours, type Partition } from "./partitions.js";

/** Partitions that a search begins with, besides uniform ones: those with the lowest bounds. */
const FIRST = 24;
/** Partitions whose neighbours are looked at next. */
const BEAM = 6;
/** Partitions whose sequences are assigned without improving them, at most; and fewer beyond so many places. */
const MOST_TRIED = 300;
const MOST_PLACES = 1.3e9;
/** Partitions that are improved first. */
const IMPROVED = 16;
/** Improving ends when it has looked at so many places for a sequence: on 64 devices, and at most on more. */
const EFFORT = 6e6;
const MOST_EFFORT = 4e8;
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
 * Groups and their sequences for one micro-batch, or null when the partitions allow none. Looks for partitions
 * by longest-first assignment, then improves the best of them by moves, and their neighbours.
 */
export function groupMicroBatch(load: Load, partitions: readonly Partition[]): Grouping | null {
  const found = searchPartitions(load, partitions).slice(0, IMPROVED);
  const degrees = load.degrees.map(({ degree }) => degree);
  const enough = areaBound(load, areaSums(load)) * (1 + NEAR);
  const seen = new Set<string>();
  const improved: Candidate[] = [];
  const expanded = new Set<Candidate>();
  // Twice as many groups are twice as many places and take twice as many moves.
  const mostEffort = Math.min(MOST_EFFORT, EFFORT * Math.max(1, (load.devices / 64) ** 2));
  let effort = 0;
  const consider = (assignment: Assignment, partition: Partition) => {
    effort += improve(assignment, MOST_EFFORT);
    improved.push({ assignment, makespan: assignment.makespan(), partition, serial: improved.length });
  };
  const isOver = () => effort > mostEffort || improved.some(({ makespan }) => makespan <= enough);

  for (const { assignment, partition } of found) {
    if (isOver()) break;
    seen.add(partition.join());
    consider(assignment, partition);
  }
  for (;;) {
    improved.sort(fasterFirst);
    const next = improved.slice(0, BEAM).filter((candidate) => !expanded.has(candidate));
    if (next.length === 0 || isOver()) return improved[0] ?? null;
    const fastest = (improved[0] as Candidate).makespan;
    const sums = areaSums(load, fastest);
    for (const candidate of next) {
      expanded.add(candidate);
      for (const partition of neighbours(candidate.partition, degrees)) {
        if (seen.has(partition.join()) || isOver()) continue;
        seen.add(partition.join());
        if (partitionBound(load, sums, partition) >= fastest) continue;
        const assignment = assignLongestFirst(load, Assignment.groupsOf(partition));
        if (assignment !== null) consider(assignment, partition);
      }
    }
  }
}

const fasterFirst = (a: Candidate, b: Candidate) => a.makespan - b.makespan || a.serial - b.serial;

/**
 * Partitions with longest-first assignments, the fastest first: some to begin with, then neighbours of the
 * best.
 */
function searchPartitions(load: Load, partitions: readonly Partition[]): Candidate[] {
  const degrees = load.degrees.map(({ degree }) => degree);
  const seen = new Set<string>();
  const found: Candidate[] = [];
  const expanded = new Set<Candidate>();
  let sums = areaSums(load);
  let fastest = Number.POSITIVE_INFINITY;
  let tried = 0;
  const most = Math.max(FIRST, Math.min(MOST_TRIED, MOST_PLACES / (load.lengths.length * load.devices)));
  const consider = (partition: Partition) => {
    const key = partition.join();
    if (seen.has(key) || tried >= most) return;
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
    found.sort(fasterFirst);
    const next = found.slice(0, BEAM).filter((candidate) => !expanded.has(candidate));
    if (next.length === 0 || tried >= most) return found;
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
