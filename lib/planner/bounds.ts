import { type Degree, weight } from "./degrees.js";

/** Sequences of one micro-batch, longest first, with what they cost at each degree. */
export interface Load {
  readonly degrees: readonly Degree[];
  readonly fixed: number;
  readonly devices: number;
  /** Tokens, descending. */
  readonly lengths: ArrayLike<number>;
  /** Milliseconds of sequence k at degree c: weights[c * K + k]. */
  readonly weights: Float64Array;
}

export function loadOf(
  lengths: ArrayLike<number>,
  degrees: readonly Degree[],
  fixed: number,
  devices: number,
): Load {
  const count = lengths.length;
  const weights = new Float64Array(count * degrees.length);
  degrees.forEach((degree, c) => {
    for (let k = 0; k < count; k++) weights[c * count + k] = weight(degree, lengths[k] as number);
  });
  return { degrees, fixed, devices, lengths, weights };
}

/**
 * Sums that bound every plan from below. With `limit`, only of plans that take less than that: a sequence is
 * then kept from degrees at which it alone takes longer (Lenstra, Shmoys and Tardos 1990).
 */
export interface AreaSums {
  /** The smallest degree (index) of each sequence, never rising. `degrees.length` when it has none. */
  readonly least: Int32Array;
  /** Device-milliseconds of the first k sequences on degrees of index c and above: area[c * (K + 1) + k]. */
  readonly area: Float64Array;
  /** Tokens of the first k sequences. */
  readonly tokens: Float64Array;
}

export function areaSums(
  { degrees, fixed, lengths, weights }: Load,
  limit = Number.POSITIVE_INFINITY,
): AreaSums {
  const count = lengths.length;
  const least = new Int32Array(count).fill(degrees.length);
  const area = new Float64Array(degrees.length * (count + 1));
  const tokens = new Float64Array(count + 1);
  for (let k = 0; k < count; k++) {
    const length = lengths[k] as number;
    tokens[k + 1] = (tokens[k] as number) + length;
    let cheapest = Number.POSITIVE_INFINITY;
    for (let c = degrees.length - 1; c >= 0; c--) {
      const { degree, capacity } = degrees[c] as Degree;
      const ms = weights[c * count + k] as number;
      if (length <= capacity && ms + fixed < limit) {
        cheapest = Math.min(cheapest, degree * ms);
        least[k] = c;
      }
      const at = c * (count + 1) + k;
      area[at + 1] = (area[at] as number) + cheapest;
    }
  }
  return { least, area, tokens };
}

/**
 * Milliseconds that no grouping of the devices can undercut; Infinity when `sums` leaves a sequence no degree.
 */
export function areaBound({ devices, fixed, lengths, weights, degrees }: Load, { area }: AreaSums): number {
  const count = lengths.length;
  let longest = Number.POSITIVE_INFINITY;
  for (let c = 0; c < degrees.length; c++) {
    if ((lengths[0] as number) <= (degrees[c] as Degree).capacity)
      longest = Math.min(longest, weights[c * count] as number);
  }
  return Math.max(longest, (area[count] as number) / devices) + fixed;
}

/**
 * Milliseconds that no assignment to so many groups of each degree can undercut: for each degree, the work that
 * cannot go to smaller groups over the devices of groups so large. Infinity when it cannot be done at all.
 */
export function partitionBound(
  { degrees, fixed, lengths }: Load,
  { least, area, tokens }: AreaSums,
  groups: ArrayLike<number>,
): number {
  const count = lengths.length;
  let bound = 0;
  let devices = 0;
  let work = 0;
  // Sequences before `beyond` need larger groups than those looked at next.
  let beyond = 0;
  for (let c = degrees.length - 1; c >= 0; c--) {
    if (groups[c] === 0) continue;
    if (devices === 0 && (least[0] as number) > c) return Number.POSITIVE_INFINITY;
    const { degree, capacity } = degrees[c] as Degree;
    devices += (groups[c] as number) * degree;
    // The next smaller groups that there are take what needs no more than them.
    let below = c - 1;
    while (below >= 0 && groups[below] === 0) below--;
    let until = beyond;
    if (below < 0) until = count;
    else while (until < count && (least[until] as number) > below) until++;
    const row = c * (count + 1);
    work += (area[row + until] as number) - (area[row + beyond] as number);
    beyond = until;
    bound = Math.max(bound, work / devices);
    if ((tokens[until] as number) > (capacity / degree) * devices) return Number.POSITIVE_INFINITY;
  }
  return bound + fixed;
}
