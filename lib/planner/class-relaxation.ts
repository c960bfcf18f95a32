import type { Load } from "./bounds.js";
import type { Degree } from "./degrees.js";
import type { Partition } from "./partitions.js";
import { type LinearModel, ModelBuilder } from "./solver.js";

/**
 * What the groups of one degree have of something, and how much of it each sequence takes. Infinity where it
 * cannot go there.
 */
interface Resource {
  readonly degree: number;
  readonly perGroup: number;
  readonly taken: Float64Array;
}

/** A load with what limits its groups besides time. */
export interface Relaxation {
  readonly load: Load;
  readonly resources: readonly Resource[];
}

/**
 * What time and resources are worth: numbers that are not negative. Any such prices bound the makespan of every
 * partition from below, so a bound holds whatever a solver's tolerances were.
 */
export interface Prices {
  /** One a degree. */
  readonly time: Float64Array;
  /** One a resource. */
  readonly resource: Float64Array;
  /** What all sequences pay at least, each at the degree that is cheapest for it. */
  readonly total: number;
}

/** Sequences of more than 1 / (m + 1) of a group fit into it at most m times: for m up to this. */
const MOST_FRACTIONS = 8;
const ROUNDING = 1e-9;

/**
 * The load with all degrees up to index `first` pooled into that one: a sequence takes there as many
 * device-milliseconds as at the cheapest of them. What bounds this load bounds the other. Degrees at which a
 * sequence alone takes `limit` or longer, or that have no memory for it, cost Infinity.
 */
export function pooledLoad(load: Load, first: number, limit: number): Load {
  const { degrees, fixed, lengths } = load;
  const count = lengths.length;
  const pooled = degrees.slice(first);
  const weights = new Float64Array(pooled.length * count).fill(Number.POSITIVE_INFINITY);
  degrees.forEach(({ degree, capacity }, c) => {
    const target = Math.max(0, c - first);
    const share = degree / (pooled[target] as Degree).degree;
    for (let k = 0; k < count; k++) {
      const ms = load.weights[c * count + k] as number;
      if ((lengths[k] as number) > capacity || ms + fixed >= limit) continue;
      weights[target * count + k] = Math.min(weights[target * count + k] as number, ms * share);
    }
  });
  return { ...load, degrees: pooled, weights };
}

/**
 * What is known of plans below `limit`, when sequences may be split among degrees and the groups of a degree
 * share alike. Memory; and, as sequences are whole, that of those which take more than i / (m + 1) of a group's
 * time or memory, counted i times, m fit (Chvátal and Gomory's rounding, m = 1 to 8).
 */
export function relax(load: Load, first: number, limit: number): Relaxation {
  const pooled = pooledLoad(load, first, limit);
  const { degrees, lengths, weights, fixed } = pooled;
  const count = lengths.length;
  const resources: Resource[] = [];
  degrees.forEach(({ capacity }, c) => {
    const at = (k: number, taken: number) => (Number.isFinite(weights[c * count + k]) ? taken : Infinity);
    const length = (k: number) => lengths[k] as number;
    const taking = (taken: (k: number) => number) =>
      Float64Array.from({ length: count }, (_, k) => at(k, taken(k)));
    resources.push({ degree: c, perGroup: capacity, taken: taking(length) });
    // What is pooled is not one group.
    if (first > 0 && c === 0) return;
    for (let m = 1; m <= MOST_FRACTIONS; m++) {
      const parts = m + 1;
      // Rounding must not make a share larger.
      const ofTime = (k: number) =>
        Math.floor((parts * (weights[c * count + k] as number)) / (limit - fixed) - ROUNDING);
      resources.push({ degree: c, perGroup: m, taken: taking((k) => Math.max(0, ofTime(k))) });
      resources.push({
        degree: c,
        perGroup: m,
        taken: taking((k) => Math.floor((parts * length(k)) / (capacity + 1))),
      });
    }
  });
  return {
    load: pooled,
    resources: resources.filter(({ taken }) => taken.some((one) => one > 0 && one < Infinity)),
  };
}

/**
 * The linear program of one partition: minimises the makespan without its fixed part. Rows: time, resources,
 * then sequences.
 */
export function linearProgram({ load, resources }: Relaxation, partition: Partition): LinearModel {
  const { degrees, lengths, weights } = load;
  const count = lengths.length;
  const model = new ModelBuilder();
  const time = degrees.map(() => model.row(Number.NEGATIVE_INFINITY, 0));
  const limits = resources.map(({ degree, perGroup }) =>
    model.row(Number.NEGATIVE_INFINITY, perGroup * (partition[degree] as number)),
  );
  model.column(
    1,
    0,
    Number.POSITIVE_INFINITY,
    time.map((row, c) => [row, -(partition[c] as number)] as const),
  );
  for (let k = 0; k < count; k++) {
    const whole = model.row(1, 1);
    degrees.forEach((_, c) => {
      const ms = weights[c * count + k] as number;
      if (partition[c] === 0 || !Number.isFinite(ms)) return;
      const taken = resources.flatMap(({ degree, taken }, r) =>
        degree === c ? [[limits[r] as number, taken[k] as number] as const] : [],
      );
      model.column(0, 0, 1, [[time[c] as number, ms], ...taken, [whole, 1]]);
    });
  }
  return model.build();
}

/**
 * The prices in a solved program. Degrees that the partition has no groups of get the least price that keeps
 * all away.
 */
export function pricesOf(relaxation: Relaxation, partition: Partition, rowDuals: ArrayLike<number>): Prices {
  const { load, resources } = relaxation;
  const { degrees, lengths, weights } = load;
  const count = lengths.length;
  const width = degrees.length;
  const time = new Float64Array(width);
  const resource = new Float64Array(resources.length);
  for (let c = 0; c < width; c++) time[c] = partition[c] === 0 ? 0 : Math.max(0, -(rowDuals[c] as number));
  resources.forEach(({ degree }, r) => {
    resource[r] = partition[degree] === 0 ? 0 : Math.max(0, -(rowDuals[width + r] as number));
  });

  // What each sequence pays at each degree, and at least where the partition lets it go.
  const pays = new Float64Array(width * count);
  for (let c = 0; c < width; c++) {
    for (let k = 0; k < count; k++)
      pays[c * count + k] = (time[c] as number) * (weights[c * count + k] as number);
  }
  resources.forEach(({ degree, taken }, r) => {
    const price = resource[r] as number;
    if (price === 0) return;
    for (let k = 0; k < count; k++) {
      const at = degree * count + k;
      pays[at] = (pays[at] as number) + price * (taken[k] as number);
    }
  });
  const possible = (c: number, k: number) => Number.isFinite(weights[c * count + k]);
  const least = (k: number, from: (c: number) => boolean) => {
    let paid = Number.POSITIVE_INFINITY;
    for (let c = 0; c < width; c++)
      if (from(c) && possible(c, k)) paid = Math.min(paid, pays[c * count + k] as number);
    return paid;
  };
  const there = (c: number) => partition[c] !== 0;
  for (let c = 0; c < width; c++) {
    if (there(c)) continue;
    for (let k = 0; k < count; k++) {
      const paid = least(k, there);
      // Those that only such a degree can take will pay what it asks.
      if (possible(c, k) && Number.isFinite(paid))
        time[c] = Math.max(time[c] as number, paid / (weights[c * count + k] as number));
    }
    for (let k = 0; k < count; k++)
      pays[c * count + k] = (time[c] as number) * (weights[c * count + k] as number);
  }
  let total = 0;
  for (let k = 0; k < count; k++) total += least(k, () => true);
  return { time, resource, total };
}

/** Milliseconds that no assignment to `partition` can undercut, by these prices. */
export function priceBound(
  { load: { degrees, fixed }, resources }: Relaxation,
  { time, resource, total }: Prices,
  partition: Partition,
): number {
  let worth = 0;
  let groups = 0;
  for (let c = 0; c < degrees.length; c++) groups += (partition[c] as number) * (time[c] as number);
  resources.forEach(({ degree, perGroup }, r) => {
    worth += (partition[degree] as number) * perGroup * (resource[r] as number);
  });
  return groups > 0 ? (total - worth) / groups + fixed : 0;
}
