import type { Assignment } from "./assign.js";
import type { Load } from "./bounds.js";
import { bucketEnds } from "./buckets.js";
import { type Degree, weight } from "./degrees.js";
import { type LinearModel, ModelBuilder } from "./solver.js";

/** Sequences that a model does not tell apart. */
export interface Bucket {
  /** Tokens of the longest: what all of them count as. */
  readonly tokens: number;
  /** Indices into the load. */
  readonly sequences: readonly number[];
}

/**
 * FlexSP's integer program of one micro-batch (its section 4 and published solver): candidate groups that exist
 * or not, and how many sequences of each bucket go to each.
 */
export interface GroupModel {
  readonly buckets: readonly Bucket[];
  /** Index of each candidate's degree. */
  readonly candidates: Int32Array;
  readonly model: LinearModel;
}

/** One bucket a length. */
export function exactBuckets({ lengths }: Load): Bucket[] {
  const buckets = new Map<number, number[]>();
  Array.from(lengths).forEach((tokens, k) => {
    buckets.set(tokens, [...(buckets.get(tokens) ?? []), k]);
  });
  return [...buckets].map(([tokens, sequences]) => ({ tokens, sequences }));
}

/**
 * At most `count` buckets, more where they would make the tokens too many for the devices, as the published
 * code has it: past half the way from the true tokens to what fits.
 */
export function flexspBuckets(load: Load, count: number): Bucket[] {
  const ascending = Array.from(load.lengths).reverse();
  const last = ascending.length - 1;
  const tokens = ascending.reduce((a, b) => a + b, 0);
  const { degree, capacity } = load.degrees[0] as Degree;
  const most = (tokens + (capacity / degree) * load.devices) / 2;
  for (let q = count; q < ascending.length; q++) {
    const ends = bucketEnds(ascending, q);
    const buckets = ends.map((end, b) => ({
      tokens: ascending[end - 1] as number,
      sequences: Array.from({ length: end - (ends[b - 1] ?? 0) }, (_, i) => last - (ends[b - 1] ?? 0) - i),
    }));
    const counted = buckets.reduce((sum, bucket) => sum + bucket.tokens * bucket.sequences.length, 0);
    if (counted <= most) return buckets;
  }
  return exactBuckets(load);
}

/** Every group of every degree that the devices have room for. */
export function allCandidates({ degrees, devices }: Load): Int32Array {
  return Int32Array.from(
    degrees.flatMap(({ degree }, c) => Array.from({ length: Math.floor(devices / degree) }, () => c)),
  );
}

/**
 * @param start a feasible assignment, whose groups are the first candidates of their degrees
 * @param choose whether candidates may be left out; else all of them exist
 */
export function groupModel(
  load: Load,
  buckets: readonly Bucket[],
  candidates: Int32Array,
  { start, choose, seconds }: { start?: Assignment; choose: boolean; seconds: number },
): GroupModel {
  const { degrees, fixed, devices } = load;
  const none = Number.NEGATIVE_INFINITY;
  const count = load.lengths.length;
  const builder = new ModelBuilder();
  const values: number[] = [];
  const place = start === undefined ? undefined : placesOf(start, candidates);
  const of = (p: number) => degrees[candidates[p] as number] as Degree;

  const assigned = buckets.map(({ sequences }) => builder.row(sequences.length, sequences.length));
  const rows = Array.from(candidates, (_, p) => ({
    memory: builder.row(none, of(p).capacity),
    time: builder.row(none, -fixed),
    used: builder.row(none, choose ? 0 : -1),
    exists: builder.row(none, choose ? 0 : count),
  }));
  const allDevices = choose ? builder.row(devices, devices) : -1;

  builder.column(
    1,
    0,
    Number.POSITIVE_INFINITY,
    rows.map(({ time }) => [time, -1] as const),
  );
  values.push(0);
  if (choose) {
    rows.forEach(({ used, exists }, p) => {
      builder.column(
        0,
        0,
        1,
        [
          [used, 1],
          [exists, -count],
          [allDevices, of(p).degree],
        ],
        true,
      );
      values.push(place?.has(p) ? 1 : 0);
    });
  }
  const busy = new Float64Array(candidates.length).fill(fixed);
  buckets.forEach(({ tokens, sequences }, b) => {
    rows.forEach(({ memory, time, used, exists }, p) => {
      const most = tokens > of(p).capacity ? 0 : sequences.length;
      const ms = weight(of(p), tokens);
      builder.column(
        0,
        0,
        most,
        [
          [assigned[b] as number, 1],
          [memory, tokens],
          [time, ms],
          [used, -1],
          [exists, 1],
        ],
        true,
      );
      const group = place?.get(p);
      const own = group === undefined ? 0 : sequences.filter((k) => start?.groupOf[k] === group).length;
      busy[p] = (busy[p] as number) + own * ms;
      values.push(own);
    });
  });
  values[0] = Math.max(...busy);
  const options = start === undefined ? { seconds } : { seconds, start: Float64Array.from(values) };
  return { buckets, candidates, model: builder.build(options) };
}

/** Which sequences each candidate that is used gets, from a solution: those of a bucket in their order. */
export function readSolution(
  { buckets, candidates }: GroupModel,
  values: ArrayLike<number>,
  choose: boolean,
): { readonly degree: number; readonly sequences: number[] }[] {
  const first = 1 + (choose ? candidates.length : 0);
  const groups = Array.from(candidates, (degree) => ({ degree, sequences: [] as number[] }));
  buckets.forEach(({ sequences }, b) => {
    let next = 0;
    groups.forEach((group, p) => {
      const count = Math.round(values[first + b * groups.length + p] as number);
      group.sequences.push(...sequences.slice(next, next + count));
      next += count;
    });
  });
  return groups.filter(({ sequences }) => sequences.length > 0);
}

/** The candidate that stands for each group of an assignment: the group by the candidate. */
function placesOf({ degreeOf }: Assignment, candidates: Int32Array): Map<number, number> {
  const places = new Map<number, number>();
  degreeOf.forEach((degree, group) => {
    places.set(
      candidates.findIndex((candidate, p) => candidate === degree && !places.has(p)),
      group,
    );
  });
  return places;
}
