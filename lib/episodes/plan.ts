import { invalidOption } from "../errors.js";
import type { ChatTemplate } from "../text/chat-template.js";
import type { Tokenizer } from "../text/tokenizer.js";
import { cluster, representatives, similarities } from "./clusters.js";
import type { History } from "./history.js";
import type { Clustering } from "./k-means.js";
import type { Embed, EpisodeSettings } from "./options.js";
import { patchedPrompt } from "./prompt.js";
import { cosine, type Rows, rowOf, toUnitRows } from "./vectors.js";
import { windowsOf } from "./windows.js";

/** One episode of a history. */
export interface EpisodePlan {
  /** Indices of its windows, in time order. */
  readonly windows: readonly number[];
  /** Those of them that its prompt is made of. */
  readonly representatives: readonly number[];
  /** Token ids that stand in for the questions that nobody has asked yet. */
  readonly prompt: readonly number[];
}

/** The episodes of a history and what tells which of them a question is about. */
export interface HistoryPlan {
  readonly windows: number;
  readonly episodes: readonly EpisodePlan[];
  /** One a cluster of windows. */
  readonly centroids: Rows;
}

/** What planning needs of an engine. */
export interface PlanContext {
  readonly settings: EpisodeSettings;
  readonly embed: Embed;
  readonly tokenizer: Tokenizer;
  readonly template: ChatTemplate;
}

/** Cuts a history into windows, embeds them, clusters them into episodes and writes each episode's prompt. */
export async function planEpisodes(
  history: History,
  context: PlanContext,
  signal: AbortSignal,
): Promise<HistoryPlan> {
  const { settings, tokenizer } = context;
  const windows = windowsOf(history, settings.windows, tokenizer);
  if (windows.length === 0) throw invalidOption("input", "a history with something said in it", history);
  const rows = toUnitRows("memory.embed(windows)", await vectorsOf(windows, context.embed));
  const clustering = await cluster(rows, settings.episodes, { ...settings.clustering, signal });
  const episodes = Array.from({ length: clustering.clusters }, (_, index) => ({
    windows: [...windows.keys()].filter((window) => clustering.assignment[window] === index),
    ...promptOf(index, { windows, rows, clustering, history }, context),
  }));
  return { windows: windows.length, episodes, centroids: clustering.centroids };
}

interface Clustered {
  readonly windows: readonly string[];
  readonly rows: Rows;
  readonly clustering: Clustering;
  readonly history: Pick<History, "separator">;
}

/** An episode's prompt, of as many of the windows nearest its centroid as it may have. */
function promptOf(
  episode: number,
  { windows, rows, clustering, history }: Clustered,
  context: PlanContext,
): Pick<EpisodePlan, "representatives" | "prompt"> {
  const { settings } = context;
  for (let count = settings.representatives; ; count--) {
    const chosen = representatives(rows, clustering, count)[episode] as number[];
    const texts = chosen.map((window) => windows[window] as string);
    const prompt = patchedPrompt(texts, history, settings.instruction, context);
    if (settings.promptTokens === null || prompt.length <= settings.promptTokens)
      return { representatives: chosen, prompt };
    if (count === 1) return { representatives: chosen, prompt: prompt.slice(0, settings.promptTokens) };
  }
}

/** What a question is about. */
export interface Match {
  /** The episodes, the one that it is most like first. */
  readonly order: readonly number[];
  /** Its cosine with the centroid of the first one. */
  readonly cosine: number;
  /** Of length 1. */
  readonly vector: Float64Array;
}

/** The episodes that a question is about. The bare question is embedded: what goes with every question tells nothing. */
export async function matchEpisodes(
  question: string,
  { centroids }: HistoryPlan,
  { settings, embed }: Pick<PlanContext, "settings" | "embed">,
): Promise<Match> {
  const vectors = await vectorsOf([question], embed);
  const row = toUnitRows("memory.embed(question)", vectors);
  if (row.width !== centroids.width) {
    const expected = `a vector of ${centroids.width} numbers, as for the history`;
    throw invalidOption("memory.embed(question)[0]", expected, vectors[0]);
  }
  const scores = similarities(row.values, centroids, settings.match);
  const order = [...scores.keys()].sort((a, b) => (scores[b] as number) - (scores[a] as number) || a - b);
  const nearest = rowOf(centroids, order[0] as number);
  return { order, cosine: cosine(row.values, nearest), vector: row.values };
}

/** A plan with a further episode, opened by a turn: nothing of the history belongs to it. */
export function withEpisode(
  plan: HistoryPlan,
  text: string,
  vector: Float64Array,
  history: Pick<History, "separator">,
  context: PlanContext,
): HistoryPlan {
  const { instruction, promptTokens, representatives: wanted } = context.settings;
  const prompt = patchedPrompt(wanted === 0 ? [] : [text], history, instruction, context).slice(
    0,
    promptTokens ?? undefined,
  );
  const { count, width, values } = plan.centroids;
  return {
    ...plan,
    episodes: [...plan.episodes, { windows: [], representatives: [], prompt }],
    centroids: { count: count + 1, width, values: Float64Array.of(...values, ...vector) },
  };
}

/** One vector a text, as many as there are texts. */
export async function vectorsOf(texts: readonly string[], embed: Embed): Promise<readonly ArrayLike<number>[]> {
  const vectors = await embed(texts);
  if (Array.isArray(vectors) && vectors.length === texts.length) return vectors;
  throw invalidOption("memory.embed(texts)", `an array of ${texts.length} vectors, one a text`, vectors);
}
