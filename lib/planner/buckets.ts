/**
 * Divides lengths, ascending, into `count` runs, each standing for its longest, with the least padding
 * (FlexSP's bucketing: dynamic programming, O(count * n^2)). Returns where each run ends; the last end is n.
 */
export function bucketEnds(lengths: readonly number[], count: number): number[] {
  const n = lengths.length;
  const sums = [0];
  for (const length of lengths) sums.push((sums.at(-1) as number) + length);
  let padding = Float64Array.from({ length: n + 1 }, (_, i) => (i === 0 ? 0 : Number.POSITIVE_INFINITY));
  const choices: Int32Array[] = [];
  for (let bucket = 0; bucket < count; bucket++) {
    const next = new Float64Array(n + 1).fill(Number.POSITIVE_INFINITY);
    const choice = new Int32Array(n + 1);
    for (let i = bucket + 1; i <= n; i++) {
      const longest = lengths[i - 1] as number;
      for (let j = bucket; j < i; j++) {
        const cost = (padding[j] as number) + longest * (i - j) - ((sums[i] as number) - (sums[j] as number));
        if (cost < (next[i] as number)) {
          next[i] = cost;
          choice[i] = j;
        }
      }
    }
    padding = next;
    choices.push(choice);
  }
  const ends: number[] = [];
  for (let bucket = count - 1, end = n; bucket >= 0; bucket--) {
    ends.unshift(end);
    end = (choices[bucket] as Int32Array)[end] as number;
  }
  return ends;
}
