// Repeats one case of each native kind through the addon: what the golden program judged was the same C++, so these
// tell whether arrays and options come through the API unharmed.
import { readFileSync } from "node:fs";
import { join, relative } from "node:path";
import type { Conversation, Engine, MemoryOptions } from "../../lib/index.js";
import { layerBudgets } from "../../lib/layer-budgets.js";
import type { NativeAddon } from "../../lib/native.js";
import type { Case } from "./cases.js";
import { compare, differing, type Limit, limitOf } from "./limits.js";
import type { Report } from "./report.js";
import { Safetensors } from "./safetensors.js";

export interface Addon {
  readonly Engine: typeof Engine;
  readonly runKernel: NativeAddon["runKernel"];
}

interface Run {
  readonly addon: Addon;
  readonly device: "cpu" | "reference";
  readonly one: Case;
  readonly file: Safetensors;
  /** Tells a comparison by the limit that case.json has for `quantity`. */
  readonly judge: (quantity: string, got: ArrayLike<number>, reference: ArrayLike<number>) => void;
  /** Tells one by a limit of another form than the others in case.json. */
  readonly judgeBy: (
    limit: Limit,
    quantity: string,
    got: ArrayLike<number>,
    reference: ArrayLike<number>,
  ) => void;
  /** Tells an exact one. */
  readonly judgeEqual: (quantity: string, got: ArrayLike<number>, reference: ArrayLike<number>) => void;
}

type Kind = {
  readonly suits: (one: Case) => boolean;
  readonly file: (one: Case) => string;
  readonly run: (run: Run) => Promise<void>;
};

const data = () => "data.safetensors";

const KINDS: Readonly<Record<string, Kind>> = {
  model: {
    suits: ({ json }) => json.golden?.short !== undefined && json.weight_dtype === "fp32",
    file: ({ json }) => json.golden.short.file,
    run: model,
  },
  epicache: { suits: evicts, file: data, run: epicache },
  epicache_multi_turn: { suits: () => true, file: data, run: multiTurn },
  sampling: { suits: () => true, file: data, run: sampling },
  attention: { suits: ({ json }) => json.varlen === false, file: data, run: attention },
  layer_budgets: { suits: () => true, file: promptOf, run: layerBudgetsOf },
};

/** Cases where nothing is evicted say less, and the public API has no option for a patched prompt one row early. */
function evicts({ json: { spec, N } }: Case): boolean {
  return spec?.method in POLICIES && spec.patched_start === undefined && Math.max(...spec.budgets) < N;
}

/** Of each kind the first case that the public API can express. */
export async function runAddon(report: Report, addon: Addon, device: Run["device"], cases: readonly Case[]) {
  for (const [name, kind] of Object.entries(KINDS)) {
    const one = cases.find((candidate) => candidate.kind === name && kind.suits(candidate));
    if (one !== undefined) await runOne(report, addon, device, one, kind);
  }
}

async function runOne(report: Report, addon: Addon, device: Run["device"], one: Case, kind: Kind) {
  const line = (quantity: string) => ({ case: one.name, kind: one.kind ?? "", quantity: `addon.${quantity}` });
  try {
    await kind.run({
      addon,
      device,
      one,
      file: new Safetensors(join(one.directory, kind.file(one))),
      judge: (quantity, got, reference) =>
        report.quantity({
          ...line(quantity),
          ...compare(limitOf(one.json.limits, quantity), got, reference),
        }),
      judgeBy: (limit, quantity, got, reference) =>
        report.quantity({ ...line(quantity), ...compare(limit, got, reference) }),
      judgeEqual: (quantity, got, reference) =>
        report.quantity({ ...line(quantity), ...differing(got, reference) }),
    });
  } catch (error) {
    const where = error instanceof Error ? error.message : String(error);
    report.quantity({ ...line("run"), error: null, limit: 0, pass: false, where });
  }
}

async function model({ addon, device, one, file, judge }: Run): Promise<void> {
  await using engine = await addon.Engine.load(one.directory, { device });
  const score = await engine.score([...file.read("input_ids").values], { logits: true });
  judge("logits", score.logits ?? [], file.read("logits").values);
}

const POLICIES: Readonly<Record<string, MemoryOptions["policy"]>> = {
  epicache: "patched-prompt",
  snapkv_max: "snapkv-refed",
  snapkv_mean: "snapkv",
  keydiff: "keydiff",
  streaming: "streaming",
};

async function epicache({ addon, device, one, file, judge, judgeEqual }: Run): Promise<void> {
  const { method, level, block, budgets, window, kernel, sinks } = one.json.spec;
  const question = [...file.read("question_ids").values];
  const answer = file.read("greedy_ids").values;
  const optional = Object.entries({ window, kernel, sinks }).filter(([, value]) => value !== undefined);
  await using engine = await addon.Engine.load(join(one.root, one.json.model), { device });
  await using conversation = await engine.conversation({
    memory: {
      policy: POLICIES[method],
      level,
      block,
      budget: budgets,
      tail: question.length + answer.length,
      prompt: [...file.read("patched_ids").values],
      ...Object.fromEntries(optional),
    },
  });
  await conversation.ingest([...file.read("input_ids").values]);
  const last = one.json.blocks.length - 1;
  const kept = conversation
    .memory()
    .rows.map((_, layer) => [...file.read(`b${last}.l${layer}.len_kept`).values]);
  judge("len_kept", conversation.memory().rows.flat(), kept.flat());
  const got = await greedy(conversation, question, answer.length, true);
  judgeEqual("greedy_ids", got, untilStop(engine, answer));
}

async function multiTurn({ addon, device, one, file, judgeEqual }: Run): Promise<void> {
  const { level, block, budget, n_turns, n_new } = one.json;
  await using engine = await addon.Engine.load(join(one.root, one.json.model), { device });
  for (const turns of ["keep", "drop"]) {
    const memory = {
      policy: "patched-prompt",
      level,
      block,
      budget,
      prompt: [...file.read("patched_ids").values],
    } as const;
    await using conversation = await engine.conversation({ memory });
    await conversation.ingest([...file.read("input_ids").values]);
    for (let turn = 0; turn < n_turns; turn++) {
      const question = [...file.read(`question_${turn}`).values];
      const reference = file.read(`${turns}.turn${turn}.greedy_ids`).values;
      const got = await greedy(conversation, question, n_new, turns === "keep");
      judgeEqual(`${turns}.turn${turn}.greedy_ids`, got, untilStop(engine, reference));
      // A conversation that ended at a stop token holds another stream than the golden one.
      if (got.length < n_new) break;
    }
  }
}

async function greedy(conversation: Conversation, question: number[], maxTokens: number, remember: boolean) {
  const options = { maxTokens, remember, temperature: 0, repetitionPenalty: 1 };
  return (await conversation.ask(question, options).result()).tokens;
}

/** Golden answers run on behind stop tokens, answers of the API do not. */
function untilStop({ tokenizer }: Engine, ids: ArrayLike<number>): number[] {
  const all = Array.from(ids);
  const stop = all.findIndex((id) => tokenizer.stopTokenIds.has(id));
  return stop < 0 ? all : all.slice(0, stop);
}

async function sampling({ addon, device, one, file, judge }: Run): Promise<void> {
  const logits = file.read("logits");
  const previous = file.read("previous_ids");
  const [rows = 0, vocab = 0] = logits.shape;
  const columns = previous.shape[1] ?? 0;
  const seen = new Uint8Array(rows * Math.ceil(vocab / 8));
  previous.values.forEach((id, i) => {
    const byte = Math.floor(i / columns) * Math.ceil(vocab / 8) + (id >> 3);
    seen[byte] = (seen[byte] ?? 0) | (1 << (id & 7));
  });
  // The case with the most filters says the most.
  const all: { index: number; params: Record<string, number> }[] = one.json.cases;
  const filters = (entry: (typeof all)[number]) => Object.keys(entry.params).length;
  const most = all.reduce((best, entry) => (filters(entry) > filters(best) ? entry : best));
  const { params } = most;
  const { probabilities } = await addon.runKernel("sample", device, {
    rows,
    vocab,
    logits: logits.values,
    seen,
    seeds: new Float64Array(rows),
    positions: new Float64Array(rows),
    temperature: params.temperature ?? 1,
    topK: params.top_k ?? 0,
    topP: params.top_p ?? 1,
    minP: params.min_p ?? 0,
    repetitionPenalty: params.repetition_penalty ?? 1,
  });
  judge("probs", probabilities ?? [], file.read(`probs_${most.index}`).values);
}

async function attention({ addon, device, one, file, judge }: Run): Promise<void> {
  const { T, H, Hkv, D } = one.json;
  const { out, lse = [] } = await addon.runKernel("attention", device, {
    rows: T,
    queries: T,
    heads: H,
    kvHeads: Hkv,
    headDim: D,
    kvDtype: "f32",
    scale: 1 / Math.sqrt(D),
    positions: Int32Array.from({ length: T }, (_, i) => i),
    q: file.read("q").values,
    k: file.read("k").values,
    v: file.read("v").values,
  });
  judge("out", out ?? [], file.read("out").values);
  // Stored [heads, tokens], computed [tokens, heads].
  const byHead = Array.from({ length: H * T }, (_, i) => lse[(i % T) * H + Math.floor(i / T)] ?? Number.NaN);
  judge("lse", byHead, file.read("lse").values);
}

interface Profile {
  readonly model: string;
  readonly profile: { readonly sinks: number; readonly block: number; readonly tail: number };
  readonly sigma: readonly number[];
  readonly budgets: readonly { readonly M: number; readonly alpha: number; readonly allocation: number[] }[];
}

/** One says whether the API passes options and numbers on; the golden program runs them all. */
function firstProfile({ directory }: Case): Profile {
  const [first] = JSON.parse(readFileSync(join(directory, "profiles.json"), "utf8"));
  return first;
}

function promptOf(one: Case): string {
  return relative(one.directory, join(one.root, firstProfile(one).model, "golden_long.safetensors"));
}

async function layerBudgetsOf({ addon, device, one, file, judge, judgeBy, judgeEqual }: Run): Promise<void> {
  const { model, profile, sigma, budgets } = firstProfile(one);
  const { sinks, block, tail: window } = profile;
  await using engine = await addon.Engine.load(join(one.root, model), { device });
  const { similarity } = await engine.profile([[...file.read("input_ids").values]], { sinks, block, window });
  judge("sigma", similarity, sigma);

  const { allocation_abs: abs } = one.json.limits.allocation_from_own_sigma;
  const own = budgets.map(({ M, alpha }) => layerBudgets(similarity, M, alpha));
  const stored = budgets.map(({ allocation }) => allocation);
  judgeBy({ abs }, "allocation_from_own_sigma", own.flat(), stored.flat());
  const sums = (lists: readonly (readonly number[])[]) => lists.map((list) => list.reduce((a, b) => a + b, 0));
  judgeEqual("allocation_from_own_sigma.sum", sums(own), sums(stored));
}
