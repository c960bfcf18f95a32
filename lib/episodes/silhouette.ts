import { setImmediate } from "node:timers/promises";
import { throwIfAborted } from "../errors.js";
import type { Clustering } from "./k-means.js";
import { type Rows, rowOf, squaredDistance } from "./vectors.js";

/** Rows between two looks at the rest of the process. */
const STRIDE = 64;

/**
 * The mean silhouette (Rousseeuw 1987) of each of several clusterings of the same rows, in [-1, 1]: how much nearer rows
 * are to their own cluster's rows than to those of the next one, by Euclidean distance. A row that is alone in its
 * cluster counts 0, and so does every row of a single cluster.
 *
 * All pairs of rows are measured once, whatever the number of clusterings, and none is kept.
 */
export async function silhouettes(
  rows: Rows,
  clusterings: readonly Clustering[],
  signal?: AbortSignal,
): Promise<number[]> {
  const sizes = clusterings.map(({ clusters, assignment }) => {
    const counts = new Int32Array(clusters);
    for (const cluster of assignment) counts[cluster] = (counts[cluster] as number) + 1;
    return counts;
  });
  const totals = clusterings.map(() => 0);
  const distances = new Float64Array(rows.count);
  for (let row = 0; row < rows.count; row++) {
    if (row % STRIDE === 0) {
      await setImmediate();
      throwIfAborted(signal);
    }
    for (let other = 0; other < rows.count; other++) {
      distances[other] = Math.sqrt(squaredDistance(rowOf(rows, row), rowOf(rows, other)));
    }
    for (const [index, { assignment }] of clusterings.entries()) {
      const value = ofRow(distances, assignment, sizes[index] as Int32Array, assignment[row] as number);
      totals[index] = (totals[index] as number) + value;
    }
  }
  return totals.map((total) => total / rows.count);
}

function ofRow(distances: Float64Array, assignment: Int32Array, sizes: Int32Array, own: number): number {
  if (sizes.length < 2 || sizes[own] === 1) return 0;
  const sums = new Float64Array(sizes.length);
  for (const [other, cluster] of assignment.entries()) {
    sums[cluster] = (sums[cluster] as number) + (distances[other] as number);
  }
  // The distance to itself is 0, so it is only missing from the count.
  const within = (sums[own] as number) / ((sizes[own] as number) - 1);
  let between = Number.POSITIVE_INFINITY;
  for (const [cluster, sum] of sums.entries()) {
    if (cluster !== own) between = Math.min(between, sum / (sizes[cluster] as number));
  }
  const larger = Math.max(within, between);
  return larger > 0 ? (between - within) / larger : 0;
}
