import type { Load } from "./bounds.js";
import type { Degree } from "./degrees.js";

/** Sequences of a micro-batch in the groups of one partition, largest groups first. */
export class Assignment {
  readonly load: Load;
  /** Index of each group's degree. */
  readonly degreeOf: Int32Array;
  /** The group of each sequence. */
  readonly groupOf: Int32Array;
  /** Milliseconds of each group's sequences, without the fixed part. */
  readonly busy: Float64Array;
  readonly tokens: Float64Array;
  readonly members: Int32Array;

  constructor(load: Load, degreeOf: Int32Array) {
    this.load = load;
    this.degreeOf = degreeOf;
    this.groupOf = new Int32Array(load.lengths.length).fill(-1);
    this.busy = new Float64Array(degreeOf.length);
    this.tokens = new Float64Array(degreeOf.length);
    this.members = new Int32Array(degreeOf.length);
  }

  /** The degrees of the groups, of which there are `counts[c]` of degree c. */
  static groupsOf(counts: ArrayLike<number>): Int32Array {
    const groups: number[] = [];
    for (let c = counts.length - 1; c >= 0; c--) {
      for (let n = counts[c] as number; n > 0; n--) groups.push(c);
    }
    return Int32Array.from(groups);
  }

  weight(group: number, sequence: number): number {
    const { weights, lengths } = this.load;
    return weights[(this.degreeOf[group] as number) * lengths.length + sequence] as number;
  }

  room(group: number): number {
    const { capacity } = this.load.degrees[this.degreeOf[group] as number] as Degree;
    return capacity - (this.tokens[group] as number);
  }

  put(sequence: number, group: number): void {
    this.groupOf[sequence] = group;
    this.busy[group] = (this.busy[group] as number) + this.weight(group, sequence);
    this.tokens[group] = (this.tokens[group] as number) + (this.load.lengths[sequence] as number);
    this.members[group] = (this.members[group] as number) + 1;
  }

  take(sequence: number): number {
    const group = this.groupOf[sequence] as number;
    this.groupOf[sequence] = -1;
    this.busy[group] = (this.busy[group] as number) - this.weight(group, sequence);
    this.tokens[group] = (this.tokens[group] as number) - (this.load.lengths[sequence] as number);
    this.members[group] = (this.members[group] as number) - 1;
    return group;
  }

  /** The group that ends last; the first of several. */
  slowest(): number {
    let slowest = 0;
    for (let g = 1; g < this.busy.length; g++) {
      if ((this.busy[g] as number) > (this.busy[slowest] as number)) slowest = g;
    }
    return slowest;
  }

  /** Milliseconds of the micro-batch, summed up anew so that no rounding of moves is left. */
  makespan(): number {
    const busy = new Float64Array(this.busy.length);
    this.groupOf.forEach((group, k) => {
      busy[group] = (busy[group] as number) + this.weight(group, k);
    });
    return Math.max(...busy) + this.load.fixed;
  }
}

/**
 * Longest first, each to the group that then ends earliest among those with room for it (LPT). Where that
 * leaves a sequence without room, the same with the group that is then filled least. Null when that does not
 * help, or a group gets no sequence.
 */
export function assignLongestFirst(load: Load, degreeOf: Int32Array): Assignment | null {
  if (degreeOf.length > load.lengths.length) return null;
  const assignment = assignBy(load, degreeOf, "end") ?? assignBy(load, degreeOf, "filling");
  return assignment !== null && fillEmptyGroups(assignment) ? assignment : null;
}

function assignBy(load: Load, degreeOf: Int32Array, criterion: "end" | "filling"): Assignment | null {
  const { lengths, weights, degrees } = load;
  const count = lengths.length;
  const groups = degreeOf.length;
  const assignment = new Assignment(load, degreeOf);
  const { busy, tokens } = assignment;
  for (let k = 0; k < count; k++) {
    const length = lengths[k] as number;
    let best = -1;
    let least = Number.POSITIVE_INFINITY;
    for (let g = 0; g < groups; g++) {
      const c = degreeOf[g] as number;
      const { capacity } = degrees[c] as Degree;
      const held = (tokens[g] as number) + length;
      if (held > capacity) continue;
      const value =
        criterion === "end" ? (busy[g] as number) + (weights[c * count + k] as number) : held / capacity;
      if (value < least) {
        best = g;
        least = value;
      }
    }
    if (best < 0) return null;
    assignment.put(k, best);
  }
  return assignment;
}

/**
 * Every rank takes part in the collectives of a step: a group without a sequence gets the shortest one there
 * is.
 */
function fillEmptyGroups(assignment: Assignment): boolean {
  const { members, groupOf, load } = assignment;
  for (let g = 0; g < members.length; g++) {
    if (members[g] !== 0) continue;
    let k = groupOf.length - 1;
    const fits = () =>
      (members[groupOf[k] as number] as number) > 1 && (load.lengths[k] as number) <= assignment.room(g);
    while (k >= 0 && !fits()) k--;
    if (k < 0) return false;
    assignment.take(k);
    assignment.put(k, g);
  }
  return true;
}

/** Gains below this share of the makespan are rounding. */
const LEAST_GAIN = 1e-12;

/**
 * Moves a sequence out of the slowest group, or swaps it with one of another group, as long as both groups then
 * end earlier than the slowest did; always the move with the best outcome. Ends when it has looked at `most`
 * moves, and returns how many those were.
 */
export function improve(assignment: Assignment, most: number): number {
  const { groupOf, busy, load } = assignment;
  const count = groupOf.length;
  const { lengths } = load;
  let looked = 0;
  while (looked < most) {
    const g = assignment.slowest();
    let best = (busy[g] as number) * (1 - LEAST_GAIN);
    let bestSequence = -1;
    let bestOther = -1;
    let bestGroup = -1;
    for (let k = 0; k < count; k++) {
      if (groupOf[k] !== g) continue;
      const without = (busy[g] as number) - assignment.weight(g, k);
      const length = lengths[k] as number;
      looked += busy.length + count - k;
      for (let h = 0; h < busy.length; h++) {
        if (h === g || length > assignment.room(h) || assignment.members[g] === 1) continue;
        const end = Math.max(without, (busy[h] as number) + assignment.weight(h, k));
        if (end >= best) continue;
        best = end;
        bestSequence = k;
        bestOther = -1;
        bestGroup = h;
      }
      // Those that are longer would only make the slowest group slower.
      for (let j = k + 1; j < count; j++) {
        const h = groupOf[j] as number;
        if (h === g) continue;
        const own = without + assignment.weight(g, j);
        if (own >= best) continue;
        const its = (busy[h] as number) - assignment.weight(h, j) + assignment.weight(h, k);
        if (its >= best || length - (lengths[j] as number) > assignment.room(h)) continue;
        best = Math.max(own, its);
        bestSequence = k;
        bestOther = j;
        bestGroup = h;
      }
    }
    looked += count;
    if (bestSequence < 0) return looked;
    assignment.take(bestSequence);
    if (bestOther >= 0) {
      assignment.take(bestOther);
      assignment.put(bestOther, g);
    }
    assignment.put(bestSequence, bestGroup);
  }
  return looked;
}
