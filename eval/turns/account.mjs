// What follows from the times of a run over turns.

/** Milliseconds since the beginning: cumulative[0] is the set-up, cumulative[n] stands behind turn n. */
export function cumulative({ setUpMs, turnMs }) {
  const sums = [setUpMs];
  for (const ms of turnMs) sums.push(sums.at(-1) + ms);
  return sums;
}

/**
 * The turn from which on one conversation has taken less time in all than another, set-up counted, until the end; 0 if
 * it is ahead from the set-up on, undefined if it is not ahead in the end.
 */
export function breakEvenTurn(series, reference) {
  const own = cumulative(series);
  const other = cumulative(reference);
  const lastBehind = own.findLastIndex((ms, turn) => ms >= other[turn]);
  return lastBehind === own.length - 1 ? undefined : lastBehind + 1;
}

/** The median of each value and its neighbours, up to `width` in all. */
export function movingMedian(values, width) {
  const half = Math.floor(width / 2);
  return values.map((_, index) => {
    const near = values.slice(Math.max(0, index - half), index + half + 1).sort((a, b) => a - b);
    return near[Math.floor(near.length / 2)];
  });
}

/** The median, and what a tenth of the values is below and above. */
export function spreadOf(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (share) => sorted[Math.round(share * (sorted.length - 1))];
  return { median: at(0.5), low: at(0.1), high: at(0.9) };
}
