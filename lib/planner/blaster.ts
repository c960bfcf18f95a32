/**
 * Cuts lengths, longest first, into `parts` runs such that the run with most tokens has as few as possible
 * (FlexSP's sequence blaster). Returns where each run begins.
 */
export function cutIntoRuns(lengths: readonly number[], parts: number): number[] {
  let low = Math.max(...lengths, 0);
  let high = lengths.reduce((a, b) => a + b, 0);
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    if (runsWithin(lengths, middle).length <= parts) high = middle;
    else low = middle + 1;
  }
  const begins = runsWithin(lengths, low);
  // Cutting further makes no run larger.
  while (begins.length < parts) begins.push(splitPoint(begins, lengths.length));
  return begins.sort((a, b) => a - b);
}

/** The most tokens that a run has. */
export function largestRun(lengths: readonly number[], begins: readonly number[]): number {
  return Math.max(...runs(lengths, begins).map((run) => run.reduce((a, b) => a + b, 0)));
}

export function runs<T>(items: readonly T[], begins: readonly number[]): T[][] {
  return begins.map((begin, index) => items.slice(begin, begins[index + 1]));
}

/** Fewest runs of at most `most` tokens. */
function runsWithin(lengths: readonly number[], most: number): number[] {
  const begins = [0];
  let sum = 0;
  lengths.forEach((length, k) => {
    if (sum + length > most) {
      begins.push(k);
      sum = 0;
    }
    sum += length;
  });
  return begins;
}

/** The middle of the longest run. */
function splitPoint(begins: readonly number[], end: number): number {
  const sorted = [...begins].sort((a, b) => a - b);
  const sizes = sorted.map((begin, index) => (sorted[index + 1] ?? end) - begin);
  const longest = sizes.indexOf(Math.max(...sizes));
  return (sorted[longest] as number) + Math.floor((sizes[longest] as number) / 2);
}
