import {
  invalidOption,
  LonghaulError,
  requireInteger,
  requireNumber,
  requireOneOf,
  requireString,
} from "../errors.js";
import type { MemoryOptions } from "../memory.js";
import { BUILDERS, type BuilderName } from "./builder.js";
import type { EpisodeCount } from "./clusters.js";
import { INSTRUCTION } from "./prompt.js";
import { WINDOW_UNITS, type WindowSettings } from "./windows.js";

/** Policies with a cache an episode. */
export const EPISODIC_POLICIES = ["epicache", "episodic"] as const;
export type EpisodicPolicy = (typeof EPISODIC_POLICIES)[number];

export const isEpisodic = (policy: string): policy is EpisodicPolicy =>
  (EPISODIC_POLICIES as readonly string[]).includes(policy);

/** One vector a text, all of the same width; their lengths do not matter. */
export type Embed = (
  texts: readonly string[],
) => readonly ArrayLike<number>[] | Promise<readonly ArrayLike<number>[]>;

/** How the policies "epicache" and "episodic" find the episodes of a history. */
export interface EpisodeOptions {
  /**
   * How many episodes, each with a cache of its own that keeps `budget` rows; or a range, of which the number with the
   * best silhouette is taken. A history of fewer windows has fewer: `memory()` tells. Default 4.
   */
  readonly episodes?: EpisodeCount;
  /** What is embedded and clustered. Default: 4 utterances each. */
  readonly windows?: {
    /** Default "utterances": messages; lines of a text; sentences of a text of one line. */
    readonly by?: WindowSettings["by"];
    /** Default 4 utterances, 8 sentences or 128 tokens. */
    readonly size?: number;
    /** Cuts a text into utterances. */
    readonly split?: (text: string) => readonly string[];
  };
  /**
   * Windows nearest an episode's centroid, which make up its patched prompt. Default 8; with policy "episodic" default 0,
   * no prompt.
   */
  readonly representatives?: number;
  /**
   * The most tokens of a prompt: windows farther from the centroid are left out of a longer one. Every cache then reserves
   * memory for as many, so that all take the same, now and when they are made anew. Default: prompts are as long as
   * their windows, and each cache reserves what its own prompt takes.
   */
  readonly promptTokens?: number;
  /** Puts an instruction in front of them, longhaul's or the given one, as EpiCache's code does. Default true. */
  readonly instruction?: boolean | string;
  /**
   * Makes vectors of windows and of questions. "engine" (default) takes the model's own hidden states
   * (`engine.embed`); a second engine's may serve better: `(texts) => encoder.embed(texts)`.
   */
  readonly embed?: "engine" | Embed;
  /** How a question finds its episode. Default "cosine", as in EpiCache's paper; its code has "dot". */
  readonly match?: "cosine" | "dot";
  /**
   * The most episodes' caches that are where the model computes at once; the others wait in host memory. Default: all
   * that the pool has room for.
   */
  readonly resident?: number;
  /**
   * A turn whose cosine with the nearest centroid is below this opens an episode of its own. It begins with the rows of
   * the nearest one, and the turn is its prompt. There are never more than twice as many as were made of a history.
   * Default: none is opened.
   */
  readonly newEpisodeBelow?: number;
  /**
   * "doubled" (default): when the conversation has twice as many windows as its episodes were made of, they are made anew of
   * its transcript before the next turn. "never": those of the first history stay.
   */
  readonly recluster?: "doubled" | "never";
  /** What is kept of what was said, for new episodes. */
  readonly transcript?: {
    /** The newest tokens that are kept. Default: the model's positions; half of them with absolute positions, so that turns have the rest. */
    readonly maxTokens?: number;
    /** Where older text is appended, a JSON object a line: `{"speaker", "text"}`. Default: it is dropped. */
    readonly file?: string;
  };
  /**
   * How the caches are made of the history. "per-episode" (default) is one prefill of it after the other; "batched" runs
   * all of them in one pass a block, with the same result, so that weights are read once a block, and takes scratch memory
   * for as many rows. "shared" reads the history once, the prompts of all episodes behind each block, and keeps what any
   * of them selects in one working cache until the end: far fewer tokens go through the model, and what the caches hold
   * was read behind the selections of all episodes.
   */
  readonly builder?: BuilderName;
  /**
   * How many episodes answer a question. 2: the rows that the two episodes most like it kept of the history, each once,
   * are attended to together; needs absolute positions, and room for twice the `budget` while it lasts. Default 1.
   */
  readonly topEpisodes?: 1 | 2;
  /**
   * Rows a KV head that the working cache of builder "shared" keeps, in every layer or in each: no fewer than the budget
   * has there. Where the selections are more, those of the best rank in any episode stay. Default twice the budget,
   * with policy "episodic" the budget of each episode.
   */
  readonly union?: number | readonly number[];
  /** Of k-means. Default 10 restarts, seed 0. */
  readonly clustering?: { readonly restarts?: number; readonly seed?: number };
}

/** `EpisodeOptions`, checked and complete. */
export interface EpisodeSettings {
  readonly episodes: EpisodeCount;
  readonly windows: WindowSettings;
  readonly split: ((text: string) => readonly string[]) | undefined;
  readonly representatives: number;
  /** Null: no limit. */
  readonly promptTokens: number | null;
  readonly instruction: string | null;
  /** Null: the engine's own. */
  readonly embed: Embed | null;
  readonly match: "cosine" | "dot";
  /** Null: as many as fit. */
  readonly resident: number | null;
  /** Null: never. */
  readonly newEpisodeBelow: number | null;
  readonly recluster: "doubled" | "never";
  readonly transcript: {
    /** Null: as the model has it. */
    readonly maxTokens: number | null;
    readonly file: string | null;
  };
  readonly builder: BuilderName;
  readonly topEpisodes: 1 | 2;
  /** Undefined: the default of `unionOf`. */
  readonly union: number | readonly number[] | undefined;
  readonly clustering: { readonly restarts: number; readonly seed: number };
}

const MAX_EPISODES = 1024;
const MAX_INT32 = 2 ** 31 - 1;
const DEFAULT_SIZES = { utterances: 4, sentences: 8, tokens: 128 };

/** Checks the options and fills in the defaults. */
export function toEpisodeSettings(
  options: EpisodeOptions & Pick<MemoryOptions, "positions">,
  policy: EpisodicPolicy,
): EpisodeSettings {
  const { windows = {}, embed = "engine", clustering = {}, transcript = {} } = options;
  if (typeof windows !== "object" || windows === null)
    throw invalidOption("memory.windows", "an object", windows);
  if (typeof clustering !== "object" || clustering === null)
    throw invalidOption("memory.clustering", "an object", clustering);
  if (typeof transcript !== "object" || transcript === null)
    throw invalidOption("memory.transcript", "an object", transcript);
  const by = requireOneOf("memory.windows.by", windows.by ?? "utterances", WINDOW_UNITS);
  if (windows.split !== undefined && typeof windows.split !== "function")
    throw invalidOption(
      "memory.windows.split",
      "a function of a text that returns its utterances",
      windows.split,
    );
  if (embed !== "engine" && typeof embed !== "function")
    throw invalidOption("memory.embed", '"engine" or a function of texts that returns their vectors', embed);
  return {
    episodes: episodeCount(options.episodes ?? 4),
    windows: { by, size: requireInteger("memory.windows.size", windows.size ?? DEFAULT_SIZES[by], 1) },
    split: windows.split,
    representatives:
      policy === "episodic"
        ? requireInteger("memory.representatives", options.representatives ?? 0, 0)
        : requireInteger("memory.representatives", options.representatives ?? 8, 1),
    promptTokens:
      options.promptTokens === undefined
        ? null
        : requireInteger("memory.promptTokens", options.promptTokens, 1, MAX_INT32),
    instruction: instructionText(options.instruction ?? true),
    embed: embed === "engine" ? null : embed,
    match: requireOneOf("memory.match", options.match ?? "cosine", ["cosine", "dot"]),
    resident:
      options.resident === undefined
        ? null
        : requireInteger("memory.resident", options.resident, 1, MAX_EPISODES),
    newEpisodeBelow:
      options.newEpisodeBelow === undefined
        ? null
        : requireNumber("memory.newEpisodeBelow", options.newEpisodeBelow, -1, 1),
    recluster: requireOneOf("memory.recluster", options.recluster ?? "doubled", ["doubled", "never"]),
    transcript: {
      maxTokens:
        transcript.maxTokens === undefined
          ? null
          : requireInteger("memory.transcript.maxTokens", transcript.maxTokens, 1, MAX_INT32),
      file: transcript.file === undefined ? null : requireString("memory.transcript.file", transcript.file),
    },
    builder: requireOneOf("memory.builder", options.builder ?? "per-episode", BUILDERS),
    topEpisodes: topEpisodes(options),
    union: unionRows(options),
    clustering: {
      restarts: requireInteger("memory.clustering.restarts", clustering.restarts ?? 10, 1),
      seed: requireInteger("memory.clustering.seed", clustering.seed ?? 0, 0),
    },
  };
}

function episodeCount(episodes: unknown): EpisodeCount {
  if (typeof episodes !== "object" || episodes === null) {
    if (typeof episodes === "number") return requireInteger("memory.episodes", episodes, 1, MAX_EPISODES);
    throw invalidOption("memory.episodes", "a number or { min, max }", episodes);
  }
  const range = episodes as { readonly min?: unknown; readonly max?: unknown };
  const max = requireInteger("memory.episodes.max", range.max, 1, MAX_EPISODES);
  return { min: requireInteger("memory.episodes.min", range.min, 1, max), max };
}

function topEpisodes({
  topEpisodes: wanted = 1,
  positions,
  resident,
}: EpisodeOptions & Pick<MemoryOptions, "positions">): 1 | 2 {
  const episodes = requireInteger("memory.topEpisodes", wanted, 1, 2) as 1 | 2;
  if (episodes === 2 && resident === 1)
    throw invalidOption("memory.resident", "at least 2 where memory.topEpisodes is 2", resident);
  if (episodes === 1 || positions !== "packed") return episodes;
  throw new LonghaulError(
    "ERR_INVALID_ARGUMENT",
    'memory.topEpisodes: 2 needs memory.positions: "absolute", for packed positions say nothing of which rows two episodes share',
  );
}

/** `union` against the budget of each layer is for `unionOf` to check. */
function unionRows({ union, builder }: EpisodeOptions): EpisodeSettings["union"] {
  if (union === undefined) return undefined;
  if (builder !== "shared")
    throw invalidOption("memory.union", 'left out unless memory.builder is "shared"', union);
  if (!Array.isArray(union)) return requireInteger("memory.union", union, 1, MAX_INT32);
  return union.map((rows, layer) => requireInteger(`memory.union[${layer}]`, rows, 1, MAX_INT32));
}

/** Rows a KV head that the working cache of builder "shared" keeps, in each layer. */
export function unionOf(
  policy: EpisodicPolicy,
  { union, episodes }: Pick<EpisodeSettings, "union" | "episodes">,
  budgets: ArrayLike<number>,
): number[] {
  // Own utterances are one episode's only, so that selections which put them first have hardly a row in common.
  const most = typeof episodes === "number" ? episodes : episodes.max;
  const selections = policy === "episodic" ? Math.max(most, 1) : 2;
  if (Array.isArray(union) && union.length !== budgets.length) {
    throw invalidOption(
      "memory.union",
      `a number or one for each of the model's ${budgets.length} layers`,
      union,
    );
  }
  return Array.from(budgets, (budget, layer) => {
    if (union === undefined) return Math.min(selections * budget, MAX_INT32);
    const rows = typeof union === "number" ? union : (union[layer] as number);
    if (rows >= budget) return rows;
    throw invalidOption(
      "memory.union",
      `at least the budget of each layer (${budget} in layer ${layer})`,
      union,
    );
  });
}

function instructionText(instruction: unknown): string | null {
  if (typeof instruction === "boolean") return instruction ? INSTRUCTION : null;
  if (typeof instruction === "string") return requireString("memory.instruction", instruction);
  throw invalidOption("memory.instruction", "true, false or a text", instruction);
}
