import { setImmediate } from "node:timers/promises";
import { throwIfAborted } from "../errors.js";
import { seededRandom } from "./random.js";
import { type Rows, rowOf, squaredDistance } from "./vectors.js";

/** A partition of rows. Clusters are numbered by their first row and none is empty. */
export interface Clustering {
  readonly clusters: number;
  /** assignment[row]: its cluster. */
  readonly assignment: Int32Array;
  /** Arithmetic means of the clusters' rows, not scaled to length 1. */
  readonly centroids: Rows;
  /** Sum of the squared distances of the rows to their centroids. */
  readonly inertia: number;
}

export interface KMeansOptions {
  /** Runs from different beginnings, of which the one with the lowest inertia counts. Default 10. */
  readonly restarts?: number;
  /** The same seed and rows give the same clustering. Default 0. */
  readonly seed?: number;
  readonly signal?: AbortSignal | undefined;
}

/** Lloyd's algorithm ends by itself; this bounds it where ties go round in circles. */
const MAX_ITERATIONS = 300;

/** Squared; rows nearer than that are the same but for rounding. */
const SAME = 1e-12;

/**
 * k-means by Lloyd's algorithm from k-means++ beginnings (Arthur and Vassilvitskii 2007), Euclidean: on rows of length 1
 * that orders by cosine. With fewer than k different rows there are as many clusters as different rows.
 */
export async function kMeans(rows: Rows, k: number, options: KMeansOptions = {}): Promise<Clustering> {
  const { restarts = 10, seed = 0, signal } = options;
  const random = seededRandom(seed);
  let best = run(rows, k, random);
  for (let restart = 1; restart < restarts; restart++) {
    // A long history's clustering must not hold up everything else in the process.
    await setImmediate();
    throwIfAborted(signal);
    const next = run(rows, k, random);
    if (next.inertia < best.inertia) best = next;
  }
  return best;
}

function run(rows: Rows, k: number, random: () => number): Clustering {
  let centroids = plusPlus(rows, k, random);
  let assignment = new Int32Array(rows.count).fill(-1);
  for (let iteration = 0; iteration < MAX_ITERATIONS; iteration++) {
    const next = nearest(rows, centroids);
    fillEmpty(rows, centroids, next);
    const settled = next.every((cluster, row) => cluster === assignment[row]);
    assignment = next;
    if (settled) break;
    centroids = means(rows, assignment, centroids.count);
  }
  return canonical(rows, assignment);
}

/** Begins with rows drawn in proportion to their squared distance from those drawn before. */
function plusPlus(rows: Rows, k: number, random: () => number): Rows {
  const chosen: number[] = [];
  const distances = new Float64Array(rows.count).fill(Number.POSITIVE_INFINITY);
  let next = Math.floor(random() * rows.count);
  while (chosen.length < k) {
    chosen.push(next);
    let total = 0;
    for (let row = 0; row < rows.count; row++) {
      const distance = squaredDistance(rowOf(rows, row), rowOf(rows, next));
      distances[row] = distance < SAME ? 0 : Math.min(distances[row] as number, distance);
      total += distances[row] as number;
    }
    if (total === 0) break;
    next = draw(distances, random() * total);
  }
  const values = new Float64Array(chosen.length * rows.width);
  for (const [cluster, row] of chosen.entries()) values.set(rowOf(rows, row), cluster * rows.width);
  return { count: chosen.length, width: rows.width, values };
}

function draw(weights: Float64Array, at: number): number {
  let sum = 0;
  let last = 0;
  for (const [index, weight] of weights.entries()) {
    if (weight === 0) continue;
    sum += weight;
    last = index;
    if (at < sum) break;
  }
  return last;
}

function nearest(rows: Rows, centroids: Rows): Int32Array<ArrayBuffer> {
  const assignment = new Int32Array(rows.count);
  for (let row = 0; row < rows.count; row++) {
    let least = Number.POSITIVE_INFINITY;
    for (let cluster = 0; cluster < centroids.count; cluster++) {
      const distance = squaredDistance(rowOf(rows, row), rowOf(centroids, cluster));
      if (distance < least) {
        least = distance;
        assignment[row] = cluster;
      }
    }
  }
  return assignment;
}

/** Gives a cluster that lost all its rows the row that is worst off where it is, from a cluster that has others. */
function fillEmpty(rows: Rows, centroids: Rows, assignment: Int32Array): void {
  const sizes = new Int32Array(centroids.count);
  for (const cluster of assignment) sizes[cluster] = (sizes[cluster] as number) + 1;
  for (let empty = 0; empty < centroids.count; empty++) {
    if (sizes[empty] !== 0) continue;
    let worst = -1;
    let most = 0;
    for (let row = 0; row < rows.count; row++) {
      const cluster = assignment[row] as number;
      const distance = squaredDistance(rowOf(rows, row), rowOf(centroids, cluster));
      if ((sizes[cluster] as number) > 1 && distance > most) [worst, most] = [row, distance];
    }
    if (worst < 0) continue;
    const donor = assignment[worst] as number;
    sizes[donor] = (sizes[donor] as number) - 1;
    sizes[empty] = 1;
    assignment[worst] = empty;
  }
}

function means(rows: Rows, assignment: Int32Array, clusters: number): Rows {
  const { width } = rows;
  const values = new Float64Array(clusters * width);
  const sizes = new Int32Array(clusters);
  for (const [row, cluster] of assignment.entries()) {
    sizes[cluster] = (sizes[cluster] as number) + 1;
    const source = rowOf(rows, row);
    for (let i = 0; i < width; i++) {
      values[cluster * width + i] = (values[cluster * width + i] as number) + (source[i] as number);
    }
  }
  for (let at = 0; at < values.length; at++) {
    const size = sizes[Math.floor(at / width)] as number;
    if (size > 0) values[at] = (values[at] as number) / size;
  }
  return { count: clusters, width, values };
}

/** Numbers the clusters by first occurrence, without those that stayed empty. */
function canonical(rows: Rows, assignment: Int32Array): Clustering {
  const labels = new Map<number, number>();
  const renamed = assignment.map((cluster) => {
    const label = labels.get(cluster) ?? labels.size;
    labels.set(cluster, label);
    return label;
  });
  const centroids = means(rows, renamed, labels.size);
  let inertia = 0;
  for (const [row, cluster] of renamed.entries()) {
    inertia += squaredDistance(rowOf(rows, row), rowOf(centroids, cluster));
  }
  return { clusters: labels.size, assignment: renamed, centroids, inertia };
}
