// The kinds of episodes and layer budgets, which are TypeScript. (The golden program measures the profiles that budgets
// are made of.)
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { cluster, representatives, similarities } from "../../lib/episodes/clusters.js";
import { argMax, type Rows, toUnitRows } from "../../lib/episodes/vectors.js";
import { layerBudgets, paperLayerBudgets, publishedLayerBudgets } from "../../lib/layer-budgets.js";
import type { Case } from "./cases.js";
import { compare, differing, limitOf } from "./limits.js";
import type { Report } from "./report.js";
import { Safetensors, type StoredArray } from "./safetensors.js";

/** Runs one case. */
export type EpisodeKind = (report: Report, one: Case) => Promise<void>;

export const EPISODE_KINDS: Readonly<Record<string, EpisodeKind>> = {
  clustering: runClustering,
  clustering_degenerate: runDegenerate,
  layer_budgets: runLayerBudgets,
};

async function runClustering(report: Report, one: Case): Promise<void> {
  const { json } = one;
  const tell = teller(report, one);
  const file = new Safetensors(join(one.directory, "data.safetensors"));
  const rows = toUnitRows("x", vectorsOf(file.read("x")));
  const { restarts, inertia_ratio, partition_exact, min } = json.limits.inertia;

  const found = await cluster(rows, json.k, { restarts, seed: 1 });
  const most = json.best_inertia * inertia_ratio;
  tell("inertia", {
    error: found.inertia - json.best_inertia,
    limit: most - json.best_inertia,
    pass: found.inertia >= min && found.inertia <= most,
    where: `${found.inertia} instead of at least ${min} and at most ${most}`,
  });
  if (partition_exact) tell("partition", differing(found.assignment, json.assignment));

  const assignment = Int32Array.from(json.assignment as number[]);
  const centroids = rowsOf(file.read("centroids"));
  const chosen = representatives(rows, { clusters: json.k, assignment, centroids }, json.n_representatives);
  const stored: number[][] = json.representatives;
  // Behind each list comes its end, or one number could move to the next list unseen.
  const flat = (lists: readonly (readonly number[])[]) => lists.flatMap((list) => [...list, -1]);
  tell("representatives", differing(flat(chosen), flat(stored)));

  const queries = vectorsOf(file.read("queries"));
  for (const measure of ["cosine", "dot"] as const) {
    const all = queries.map((query) => similarities(query, centroids, measure));
    const limit = limitOf(json.limits, "query_cosine");
    tell(`query_${measure}`, compare(limit, all.flat(), file.read(`query_${measure}`).values));
    tell(`query_match_${measure}`, differing(all.map(argMax), json[`query_match_${measure}`]));
  }
}

async function runDegenerate(report: Report, one: Case): Promise<void> {
  const { json } = one;
  const tell = teller(report, one);
  const file = new Safetensors(join(one.directory, "data.safetensors"));
  const found = await cluster(toUnitRows("x", vectorsOf(file.read("x"))), json.k, { seed: 1 });
  for (const [quantity, value] of Object.entries({ inertia: found.inertia, k: found.clusters })) {
    const { ref, ...limit } = json.limits[quantity] ?? {};
    if (ref !== undefined) tell(quantity, compare(limit, [value], [ref]));
  }
}

type Judge = (limits: Case["json"], got: number[], stored: number[]) => ReturnType<typeof differing>;

const byLimit =
  (quantity: string): Judge =>
  (limits, got, stored) =>
    compare(limitOf(limits, quantity), got, stored);

const FORMULAE: Readonly<Record<string, { formula: typeof paperLayerBudgets; judge: Judge }>> = {
  allocation: { formula: layerBudgets, judge: byLimit("allocation") },
  paper_raw: { formula: paperLayerBudgets, judge: byLimit("paper_raw") },
  code_formula: { formula: publishedLayerBudgets, judge: (_, got, stored) => differing(got, stored) },
};

async function runLayerBudgets(report: Report, one: Case): Promise<void> {
  const { limits, files } = one.json;
  const tell = teller(report, one);
  for (const name of Object.keys(files)) {
    const entries = JSON.parse(readFileSync(join(one.directory, name), "utf8"));
    for (const [quantity, { formula, judge }] of Object.entries(FORMULAE)) {
      const got: number[] = [];
      const stored: number[] = [];
      for (const { sigma, budgets } of entries) {
        for (const budget of budgets.filter((one: object) => quantity in one)) {
          got.push(...formula(sigma, budget.M, budget.alpha));
          stored.push(...budget[quantity]);
        }
      }
      tell(`${name.replace(/\.json$/, "")}.${quantity}`, judge(limits, got, stored));
    }
  }
}

function teller(report: Report, { name, kind }: Case) {
  return (quantity: string, verdict: ReturnType<typeof differing>) =>
    report.quantity({ case: name, kind: kind ?? "", quantity, ...verdict });
}

function vectorsOf({ shape, values }: StoredArray): (Float32Array | Int32Array)[] {
  const [count = 0, width = 0] = shape;
  return Array.from({ length: count }, (_, i) => values.subarray(i * width, (i + 1) * width));
}

/** As they are stored, not scaled to length 1. */
function rowsOf({ shape, values }: StoredArray): Rows {
  const [count = 0, width = 0] = shape;
  return { count, width, values: Float64Array.from(values) };
}
