import type { Load } from "./bounds.js";
import type { Degree } from "./degrees.js";
import type { Partition } from "./partitions.js";
import { type LinearModel, ModelBuilder } from "./solver.js";

/**
 * What each degree's time and memory are worth: one number a degree each, none negative. Any such prices bound the makespan
 * of every partition from below, so a bound holds whatever a solver's tolerances were.
 */
export interface Prices {
  readonly time: Float64Array;
  readonly memory: Float64Array;
  /** What all sequences pay at least, each at the degree that is cheapest for it. */
  readonly total: number;
}

/**
 * The load with all degrees up to index `first` pooled into that one: a sequence takes there as many device-milliseconds as at the
 * cheapest of them. What bounds this load bounds the other. Degrees at which a sequence alone takes `limit` or longer, or that have no
 * memory for it, cost Infinity.
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
 * The relaxation of one partition: sequences may be split among degrees, and the groups of a degree share their work evenly.
 * Minimises the makespan without its fixed part. Rows: time of each degree, memory of each degree, then sequences.
 */
export function classRelaxation({ degrees, lengths, weights }: Load, partition: Partition): LinearModel {
  const count = lengths.length;
  const model = new ModelBuilder();
  const time = degrees.map(() => model.row(Number.NEGATIVE_INFINITY, 0));
  const memory = degrees.map(({ capacity }, c) =>
    model.row(Number.NEGATIVE_INFINITY, capacity * (partition[c] as number)),
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
      model.column(0, 0, 1, [
        [time[c] as number, ms],
        [memory[c] as number, lengths[k] as number],
        [whole, 1],
      ]);
    });
  }
  return model.build();
}

/** The prices in a solved relaxation. Degrees that the partition has no groups of get the least price that keeps all away. */
export function pricesOf(load: Load, partition: Partition, rowDuals: ArrayLike<number>): Prices {
  const { degrees, lengths, weights } = load;
  const count = lengths.length;
  const width = degrees.length;
  const time = Float64Array.from({ length: width }, (_, c) => Math.max(0, -(rowDuals[c] as number)));
  const memory = Float64Array.from({ length: width }, (_, c) => Math.max(0, -(rowDuals[width + c] as number)));
  const paid = new Float64Array(count).fill(Number.POSITIVE_INFINITY);
  const price = (c: number, k: number) =>
    (time[c] as number) * (weights[c * count + k] as number) + (memory[c] as number) * (lengths[k] as number);
  for (let k = 0; k < count; k++) {
    for (let c = 0; c < width; c++) {
      if (partition[c] !== 0 && Number.isFinite(weights[c * count + k])) {
        paid[k] = Math.min(paid[k] as number, price(c, k));
      }
    }
  }
  for (let c = 0; c < width; c++) {
    if (partition[c] !== 0) continue;
    memory[c] = 0;
    time[c] = 0;
    for (let k = 0; k < count; k++) {
      const ms = weights[c * count + k] as number;
      // Those that only such a degree can take will pay what it asks.
      if (Number.isFinite(ms) && Number.isFinite(paid[k])) {
        time[c] = Math.max(time[c] as number, (paid[k] as number) / ms);
      }
    }
  }
  let total = 0;
  for (let k = 0; k < count; k++) {
    let least = Number.POSITIVE_INFINITY;
    for (let c = 0; c < width; c++) {
      if (Number.isFinite(weights[c * count + k])) least = Math.min(least, price(c, k));
    }
    total += least;
  }
  return { time, memory, total };
}

/** Milliseconds that no assignment to `partition` can undercut, by these prices. */
export function priceBound({ degrees, fixed }: Load, { time, memory, total }: Prices, partition: Partition): number {
  let groups = 0;
  let room = 0;
  for (let c = 0; c < degrees.length; c++) {
    const count = partition[c] as number;
    groups += count * (time[c] as number);
    room += count * (degrees[c] as Degree).capacity * (memory[c] as number);
  }
  return groups > 0 ? (total - room) / groups + fixed : 0;
}
