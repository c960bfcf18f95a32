import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { cluster, representatives, similarities } from "../../lib/episodes/clusters.js";
import { kMeans } from "../../lib/episodes/k-means.js";
import { seededRandom } from "../../lib/episodes/random.js";
import { silhouettes } from "../../lib/episodes/silhouette.js";
import { argMax, toUnitRows } from "../../lib/episodes/vectors.js";

const vectors = fc.integer({ min: 1, max: 5 }).chain((width) =>
  fc.array(fc.array(fc.integer({ min: -3, max: 3 }), { minLength: width, maxLength: width }), {
    minLength: 1,
    maxLength: 24,
  }),
);

const unit = (vector: readonly number[]) => {
  const length = Math.hypot(...vector);
  return length > 0 ? vector.map((x) => x / length) : [...vector];
};

const distance = (a: readonly number[], b: readonly number[]) =>
  Math.hypot(...a.map((x, i) => x - (b[i] ?? 0)));

/** Directions of small whole numbers are either the same or far apart. */
const different = (points: readonly (readonly number[])[]) =>
  new Set(points.map((point) => point.map((x) => x.toFixed(6).replace("-0.000000", "0.000000")).join())).size;

const mean = (points: readonly (readonly number[])[]) =>
  (points[0] ?? []).map((_, i) => points.reduce((sum, point) => sum + (point[i] ?? 0), 0) / points.length);

/** Sum of squared distances to the clusters' means, in plain words. */
function inertiaOf(points: readonly (readonly number[])[], assignment: ArrayLike<number>): number {
  const labels = [...new Set(Array.from(assignment))];
  return labels
    .map((label) => points.filter((_, row) => assignment[row] === label))
    .flatMap((members) => members.map((member) => distance(member, mean(members)) ** 2))
    .reduce((a, b) => a + b, 0);
}

/** The lowest inertia of any partition into at most k clusters, by trying them all. */
function bestInertia(points: readonly (readonly number[])[], k: number): number {
  let best = Number.POSITIVE_INFINITY;
  for (let code = 0; code < k ** points.length; code++) {
    const assignment = points.map((_, row) => Math.floor(code / k ** row) % k);
    best = Math.min(best, inertiaOf(points, assignment));
  }
  return best;
}

describe("k-means", () => {
  it("gives a partition whose every row is at its nearest mean, numbered by first occurrence", async () => {
    await fc.assert(
      fc.asyncProperty(vectors, fc.integer({ min: 1, max: 6 }), async (given, k) => {
        const points = given.map(unit);
        const { clusters, assignment, centroids, inertia } = await kMeans(toUnitRows("x", given), k);
        expect(clusters).toBe(Math.min(k, different(points)));
        const firsts = [...new Set(assignment)];
        expect(firsts).toEqual(Array.from({ length: clusters }, (_, label) => label));
        expect(inertia).toBeCloseTo(inertiaOf(points, assignment), 9);
        const means = firsts.map((label) => mean(points.filter((_, row) => assignment[row] === label)));
        means.flat().forEach((value, i) => {
          expect(centroids.values[i]).toBeCloseTo(value, 9);
        });
        for (const [row, point] of points.entries()) {
          const own = distance(point, means[assignment[row] ?? -1] ?? []);
          for (const other of means) expect(own).toBeLessThanOrEqual(distance(point, other) + 1e-9);
        }
      }),
      { numRuns: 60 },
    );
  });

  it("finds the best partition of few rows", async () => {
    await fc.assert(
      fc.asyncProperty(
        vectors.filter((given) => given.length <= 7),
        fc.integer({ min: 2, max: 3 }),
        async (given, k) => {
          const { inertia } = await kMeans(toUnitRows("x", given), k, { restarts: 40 });
          expect(inertia).toBeCloseTo(bestInertia(given.map(unit), k), 9);
        },
      ),
      // Lloyd's algorithm need not reach the best partition from anywhere: it does for these.
      { numRuns: 25, seed: 1 },
    );
  });

  it("is the same for the same seed and does not depend on the vectors' lengths", async () => {
    const random = seededRandom(7);
    const given = Array.from({ length: 40 }, () => Array.from({ length: 6 }, () => random() - 0.5));
    const first = await kMeans(toUnitRows("x", given), 5, { seed: 3, restarts: 1 });
    const longer = given.map((vector, row) => vector.map((x) => x * 2 ** (row % 4)));
    expect(await kMeans(toUnitRows("x", longer), 5, { seed: 3, restarts: 1 })).toEqual(first);
    const others = [4, 5, 6, 7].map((seed) => kMeans(toUnitRows("x", given), 5, { seed, restarts: 1 }));
    const inertias = new Set((await Promise.all(others)).map(({ inertia }) => inertia.toFixed(9)));
    expect(inertias.size).toBeGreaterThan(1);
  });

  it("ends with the signal's reason", async () => {
    const reason = new Error("enough");
    const signal = AbortSignal.abort(reason);
    await expect(kMeans(toUnitRows("x", [[1], [2]]), 1, { signal })).rejects.toBe(reason);
  });

  it("refuses vectors that cannot be compared", () => {
    expect(() => toUnitRows("vectors", [[1, 2], [1]])).toThrow(/^vectors\[1\] must be a vector of 2 numbers/);
    expect(() => toUnitRows("vectors", [[1, Number.NaN]])).toThrow(/^vectors\[0\] must be a vector of finite/);
    expect(() => toUnitRows("vectors", [[]])).toThrow(/^vectors\[0\] must be/);
  });
});

describe("the number of episodes", () => {
  /** Rousseeuw's definition, row by row. */
  function silhouette(points: readonly (readonly number[])[], assignment: ArrayLike<number>): number {
    const values = points.map((point, row) => {
      const averages = new Map<number, number>();
      for (const label of new Set(Array.from(assignment))) {
        const others = points.filter((_, other) => other !== row && assignment[other] === label);
        if (others.length > 0) {
          averages.set(label, others.reduce((sum, other) => sum + distance(point, other), 0) / others.length);
        }
      }
      const own = assignment[row] ?? -1;
      const a = averages.get(own);
      averages.delete(own);
      if (a === undefined || averages.size === 0) return 0;
      const b = Math.min(...averages.values());
      return Math.max(a, b) === 0 ? 0 : (b - a) / Math.max(a, b);
    });
    return values.reduce((x, y) => x + y, 0) / values.length;
  }

  it("has the silhouettes of the definition", async () => {
    await fc.assert(
      fc.asyncProperty(vectors, async (given) => {
        const rows = toUnitRows("x", given);
        const clusterings = [await kMeans(rows, 1), await kMeans(rows, 3), await kMeans(rows, 5)];
        const scores = await silhouettes(rows, clusterings);
        for (const [index, { assignment }] of clusterings.entries()) {
          expect(scores[index]).toBeCloseTo(silhouette(given.map(unit), assignment), 9);
        }
      }),
      { numRuns: 40 },
    );
  });

  it("is that of the groups that there are", async () => {
    const random = seededRandom(11);
    for (const groups of [2, 3, 5]) {
      const given = Array.from({ length: 60 }, (_, row) =>
        Array.from({ length: 8 }, (_, i) => (i === row % groups ? 1 : 0) + 0.2 * random()),
      );
      expect((await cluster(toUnitRows("x", given), { min: 2, max: 8 })).clusters).toBe(groups);
    }
  });

  it("stays below that of different rows", async () => {
    const two = toUnitRows("x", [[1, 0], [0, 1], [1, 0]]); // biome-ignore format: rows of a matrix
    expect((await cluster(two, { min: 3, max: 6 })).clusters).toBe(2);
  });
});

describe("representatives and matches", () => {
  it("are the nearest to the centroid, in time order", () => {
    const rows = toUnitRows("x", [[1, 0], [1, 0.1], [1, 0.5], [0, 1], [1, -0.1], [1, 2]]); // biome-ignore format: rows
    const centroids = { count: 2, width: 2, values: Float64Array.from([0.5, 0, 0, 0.9]) };
    const assignment = Int32Array.from([0, 0, 0, 1, 0, 1]);
    expect(representatives(rows, { clusters: 2, assignment, centroids }, 2)).toEqual([
      [0, 1],
      [3, 5],
    ]);
    expect(representatives(rows, { clusters: 2, assignment, centroids }, 3)).toEqual([
      [0, 1, 4],
      [3, 5],
    ]);
  });

  it("go by the angle, or by the dot product that favours long centroids", () => {
    const centroids = { count: 2, width: 2, values: Float64Array.from([0.3, 0, 0.7, 0.7]) };
    const question = [1, 0.5];
    expect(argMax(similarities(question, centroids))).toBe(1);
    expect(argMax(similarities([1, 0.1], centroids))).toBe(0);
    expect(argMax(similarities([1, 0.1], centroids, "dot"))).toBe(1);
    expect(similarities([0, 0], centroids)).toEqual([0, 0]);
    expect(argMax([1, 3, 3, 2])).toBe(1);
  });
});
