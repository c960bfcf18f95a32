/** Median and range of some numbers. */
export function summarise(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = (sorted.length - 1) / 2;
  return {
    median: (sorted[Math.floor(middle)] + sorted[Math.ceil(middle)]) / 2,
    low: sorted[0],
    high: sorted.at(-1),
    count: sorted.length,
  };
}
