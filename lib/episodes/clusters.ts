import { type Clustering, type KMeansOptions, kMeans } from "./k-means.js";
import { silhouettes } from "./silhouette.js";
import { argMax, cosine, dot, type Rows, rowOf } from "./vectors.js";

/** How many episodes: a number, or what has the highest silhouette within a range. */
export type EpisodeCount = number | { readonly min: number; readonly max: number };

/** Clusters the rows into so many episodes, or into fewer where there are fewer different rows. */
export async function cluster(
  rows: Rows,
  episodes: EpisodeCount,
  options: KMeansOptions = {},
): Promise<Clustering> {
  if (typeof episodes === "number") return kMeans(rows, episodes, options);
  const candidates: Clustering[] = [];
  for (let k = episodes.min; k <= Math.min(episodes.max, Math.max(rows.count, episodes.min)); k++) {
    candidates.push(await kMeans(rows, k, options));
  }
  const scores = await silhouettes(rows, candidates, options.signal);
  return candidates[argMax(scores)] as Clustering;
}

/** For each cluster the `count` rows with the largest cosine to its centroid (the earlier one on a tie), in time order. */
export function representatives(
  rows: Rows,
  { clusters, assignment, centroids }: Pick<Clustering, "clusters" | "assignment" | "centroids">,
  count: number,
): number[][] {
  const cosines = Array.from(assignment, (cluster, row) => cosine(rowOf(rows, row), rowOf(centroids, cluster)));
  return Array.from({ length: clusters }, (_, wanted) =>
    Array.from(assignment.keys())
      .filter((row) => assignment[row] === wanted)
      .sort((a, b) => (cosines[b] as number) - (cosines[a] as number) || a - b)
      .slice(0, count)
      .sort((a, b) => a - b),
  );
}

/**
 * How well a question's vector matches each centroid. "cosine" is what the EpiCache paper says; "dot" is what its
 * published code does with centroids that are not of length 1, which favours tight clusters.
 */
export function similarities(
  question: ArrayLike<number>,
  centroids: Rows,
  measure: "cosine" | "dot" = "cosine",
): number[] {
  const of = measure === "cosine" ? cosine : dot;
  return Array.from({ length: centroids.count }, (_, cluster) => of(question, rowOf(centroids, cluster)));
}
