import { invalidOption, requireInteger, requireNumber } from "../errors.js";
import type { SequenceParallelCosts } from "./costs.js";

/**
 * One timed run of a group: `count` packed sequences of `tokens` each on `degree` devices, with no
 * communication in the time.
 */
export interface ComputeSample {
  readonly tokens: number;
  readonly count: number;
  readonly degree: number;
  readonly ms: number;
}

/**
 * The coefficients of `costs.compute` that fit measured times best, none of them negative: least squares of the
 * errors relative to each time, so that long runs do not drown short ones. Measure at least three lengths, and
 * more than one count of some.
 */
export function fitComputeCosts(samples: readonly ComputeSample[]): SequenceParallelCosts["compute"] {
  if (!Array.isArray(samples) || samples.length < 3)
    throw invalidOption("samples", "an array of at least three timed runs", samples);
  const rows = samples.map(({ tokens, count, degree, ms }, i) => {
    requireInteger(`samples[${i}].tokens`, tokens, 1);
    requireInteger(`samples[${i}].count`, count, 1);
    requireInteger(`samples[${i}].degree`, degree, 1);
    requireNumber(`samples[${i}].ms`, ms, Number.MIN_VALUE);
    return [(count * tokens * tokens) / degree / ms, (count * tokens) / degree / ms, 1 / ms];
  });
  // A coefficient that comes out negative is 0, and the others are fitted without it: few enough to try every choice.
  let best: { readonly values: readonly number[]; readonly error: number } | undefined;
  for (const kept of [[0, 1, 2], [0, 1], [0, 2], [1, 2], [0], [1], [2]]) {
    const solved = leastSquares(rows.map((row) => kept.map((column) => row[column] as number)));
    if (solved === null || solved.some((value) => value < 0)) continue;
    const values = [0, 0, 0];
    kept.forEach((column, i) => {
      values[column] = solved[i] as number;
    });
    const error = rows.reduce((sum, row) => sum + (dot(row, values) - 1) ** 2, 0);
    if (best === undefined || error < best.error) best = { values, error };
    if (kept.length === 3) break;
  }
  if (best === undefined) throw invalidOption("samples", "timed runs of different lengths and counts", samples);
  const [msPerTokenSquared = 0, msPerToken = 0, msPerGroup = 0] = best.values;
  return { msPerTokenSquared, msPerToken, msPerGroup };
}

/**
 * x that minimises |rows x - 1|, or null when the columns depend on each other: QR by Householder reflections.
 */
function leastSquares(rows: readonly (readonly number[])[]): number[] | null {
  const width = (rows[0] as readonly number[]).length;
  if (rows.length < width) return null;
  // Columns of length 1: tokens squared and 1 differ by ten orders of magnitude.
  const scales = Array.from({ length: width }, (_, c) => Math.hypot(...rows.map((row) => row[c] as number)));
  const a = rows.map((row) => [...row.map((value, c) => value / (scales[c] as number)), 1]);
  for (let c = 0; c < width; c++) {
    const column = a.slice(c).map((row) => row[c] as number);
    const norm = Math.hypot(...column);
    if (norm < 1e-9) return null;
    const reflected = [...column];
    reflected[0] = (column[0] as number) + (Math.sign(column[0] as number) || 1) * norm;
    const square = dot(reflected, reflected);
    for (let target = c; target <= width; target++) {
      const values = a.slice(c).map((row) => row[target] as number);
      const factor = (2 * dot(reflected, values)) / square;
      reflected.forEach((value, i) => {
        (a[c + i] as number[])[target] = (values[i] as number) - factor * value;
      });
    }
  }
  const x: number[] = new Array(width).fill(0);
  for (let c = width - 1; c >= 0; c--) {
    const row = a[c] as number[];
    let rest = row[width] as number;
    for (let d = c + 1; d < width; d++) rest -= (row[d] as number) * (x[d] as number);
    x[c] = rest / (row[c] as number);
  }
  return x.map((value, c) => value / (scales[c] as number));
}

const dot = (a: readonly number[], b: readonly number[]) =>
  a.reduce((sum, value, i) => sum + value * (b[i] as number), 0);

/**
 * MiB a millisecond that explains timed transfers of `bytes` best, relative to each time: for one degree of
 * `costs.bandwidth`.
 */
export function fitBandwidth(samples: readonly { readonly bytes: number; readonly ms: number }[]): number {
  if (!Array.isArray(samples) || samples.length === 0)
    throw invalidOption("samples", "an array of timed transfers", samples);
  const rows = samples.map(({ bytes, ms }, i) => {
    requireNumber(`samples[${i}].bytes`, bytes, 1);
    requireNumber(`samples[${i}].ms`, ms, Number.MIN_VALUE);
    return [bytes / 2 ** 20 / ms];
  });
  const [msPerMib] = leastSquares(rows) as [number];
  return 1 / msPerMib;
}

/**
 * `costs.memory.tokensPerDevice` for a device with `bytes` of memory, from measured peaks: a fixed part and one
 * that grows with the tokens.
 */
export function fitTokensPerDevice(
  samples: readonly { readonly tokens: number; readonly peakBytes: number }[],
  bytes: number,
): number {
  requireNumber("bytes", bytes, 1);
  if (!Array.isArray(samples) || samples.length < 2)
    throw invalidOption("samples", "an array of at least two measured peaks", samples);
  const rows = samples.map(({ tokens, peakBytes }, i) => {
    requireInteger(`samples[${i}].tokens`, tokens, 1);
    requireNumber(`samples[${i}].peakBytes`, peakBytes, 1);
    return [tokens / peakBytes, 1 / peakBytes];
  });
  const solved = leastSquares(rows);
  const [perToken, fixed] = solved ?? [0, 0];
  if (perToken === undefined || fixed === undefined || !(perToken > 0))
    throw invalidOption("samples", "peaks that grow with different numbers of tokens", samples);
  return Math.max(0, Math.floor((bytes - fixed) / perToken));
}
