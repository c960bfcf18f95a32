import { availableParallelism, freemem } from "node:os";
import type { EpisodesMemory } from "./episodes/memory.js";
import type { EpisodeOptions } from "./episodes/options.js";
import { invalidOption, LonghaulError, requireInteger, requireOneOf, requireString } from "./errors.js";
import { layerBudgets } from "./layer-budgets.js";
import { profilePath } from "./layer-profile-file.js";
import type { NativeConfig, NativeEngineMemory, NativePolicy, NativeSequenceMemory } from "./native.js";

/** How a conversation chooses the rows of keys and values that it keeps. */
export const POLICIES = [
  "full",
  "streaming",
  "snapkv",
  "snapkv-refed",
  "tova",
  "keydiff",
  "kvzip",
  "patched-prompt",
  "epicache",
  "episodic",
] as const;

export const POSITIONS = ["absolute", "packed"] as const;

/**
 * - `full`: everything stays, so memory grows with the conversation
 * - `streaming`: the first `sinks` rows and the newest ones (StreamingLLM)
 * - `snapkv`: rows that the block's own last `window` tokens attend to, on average (SnapKV)
 * - `snapkv-refed`: the same with those tokens fed again behind the block and the maximum taken, as EpiCache's code does
 * - `tova`: rows that the newest token attends to, on average over the heads of the layer, which all keep the same rows;
 *   the newest row stays (TOVA). `level` makes no difference
 * - `keydiff`: keys that are least like the mean key of their head (KeyDiff)
 * - `kvzip`: rows that the block's own tokens attend to when they are fed again behind a prompt that asks to repeat them
 *   (KVzip's score, block by block)
 * - `patched-prompt`: rows that the tokens of `prompt` attend to (EpiCache)
 * - `epicache`: as many caches as the history has episodes, each with the rows that the windows typical of its episode
 *   attend to; a question is answered from the cache of the episode that it is like (EpiCache)
 * - `episodic`: the same episodes, but each cache keeps what is said in its own episode first, and of that the keys that
 *   are least like the mean key of their head; with `representatives` also what their windows attend to
 */
export type Policy = (typeof POLICIES)[number];

/** How a budget is divided among layers; `alpha` as `layerBudgets` takes it, 2 by default. */
export type LayerDivision =
  | { readonly similarity: readonly number[]; readonly alpha?: number }
  /** The path of a profile, or true for the one beside the model. */
  | { readonly profile: string | true; readonly alpha?: number };

/** What a conversation may hold. "Rows" are tokens of one KV head in one layer. */
export interface MemoryOptions extends EpisodeOptions {
  /** Default "episodic" where there is a `budget`, else "full". */
  readonly policy?: Policy;
  /** Rows a KV head keeps after an eviction, in every layer or in each. Required for every policy but "full". */
  readonly budget?: number | readonly number[];
  /**
   * Divides `budget`, then a number, among the layers: EpiCache's layer budgets, see `layerBudgets`. "profiled" takes the
   * profile that `longhaul profile` (or `engine.saveProfile`) wrote beside the model.
   */
  readonly layers?: "profiled" | LayerDivision;
  /** Tokens of one prefill pass; an eviction follows each. Default 512. */
  readonly block?: number;
  /**
   * Rows of questions, answers and new turns that are kept whole on top of the budget until they fill up and are
   * evicted. What is in the tail can still be forgotten (`remember: false`). Default 512.
   */
  readonly tail?: number;
  /** Whether the rows of all heads of a layer compete ("pair") or each head keeps `budget` rows ("head"). Default "pair". */
  readonly level?: "pair" | "head";
  /** Rows at the start that always stay; "streaming" only. Default 4. */
  readonly sinks?: number;
  /** Tokens that observe; "snapkv" and "snapkv-refed" only. Default 32. */
  readonly window?: number;
  /** Neighbouring rows whose scores are averaged, odd; "snapkv" only. Default 5. */
  readonly kernel?: number;
  /**
   * "patched-prompt", required: the text or token ids whose attention decides. "kvzip": what asks for the repetition of a
   * block, in front of its tokens; token ids may be none. Default an instruction in the model's chat format.
   */
  readonly prompt?: string | readonly number[];
  /**
   * What happens at the model's last position. "absolute" (default): the conversation ends there. "packed", for every
   * policy but "full": it goes on, with the rows that are kept moved up to each other; up to there both are the same.
   */
  readonly positions?: (typeof POSITIONS)[number];
}

/** How tokens and positions have come apart. */
export interface PositionsMemory {
  /** "absolute": every row has its token's position. "packed": rows have moved up to each other. */
  readonly regime: (typeof POSITIONS)[number];
  /** The position of the next token. */
  readonly next: number;
  /** How often rows were moved. */
  readonly packings: number;
  /** The most that any key was rotated for it: each time rounds it once more. */
  readonly rotations: number;
}

/** Rows and bytes of one conversation, as its KV pool counts them. */
export interface ConversationMemory {
  readonly policy: Policy;
  /** Tokens that have gone through the model. */
  readonly tokensSeen: number;
  /** With episodes, those of the cache that is furthest on. */
  readonly positions: PositionsMemory;
  /** Rows held now, those that wait in host memory counted: rows[layer][kvHead]. */
  readonly rows: readonly (readonly number[])[];
  /** Bytes of the pages that hold rows now. */
  readonly bytes: number;
  /** The most that `bytes` ever was, inside prefill passes too. */
  readonly peakBytes: number;
  /**
   * Bytes of the pages set aside for this conversation: `peakBytes` never passes them, but for the working cache that
   * builder "shared" gave back (`episodes.workingBytes`).
   */
  readonly reservedBytes: number;
  /**
   * Bytes in the memory of this process: episodes' caches that wait there, and the transcript that new episodes are made of.
   * 0 but for policy "epicache".
   */
  readonly hostBytes: number;
  /** Bytes of its page tables, which are not part of the pool. */
  readonly tableBytes: number;
  /** Tokens of the prompt that goes through the model behind each block, 0 where the policy has none. */
  readonly promptTokens: number;
  /**
   * What the episodes hold; all numbers beside it are sums over them. Policy "epicache" only, once it has a history.
   */
  readonly episodes?: EpisodesMemory;
}

/**
 * Bytes of an engine. They leave out what any program on Node takes: code, stacks, and a JavaScript heap of some
 * megabytes (for a Unigram tokenizer, which none of the supported architectures has, with its tree of characters).
 */
export interface EngineMemory {
  readonly weights: number;
  readonly workspace: number;
  /** Page tables of all conversations. */
  readonly tables: number;
  /** Tables of tokens and merges: memory of this process, whatever the device. */
  readonly tokenizer: number;
  readonly pool: {
    /** The whole KV pool. */
    readonly bytes: number;
    /** Set aside for conversations. */
    readonly reserved: number;
    /** In pages that hold rows. */
    readonly used: number;
    /** The most that `used` ever was. */
    readonly peak: number;
  };
}

const MAX_INT32 = 2 ** 31 - 1;
const GIBIBYTE = 2 ** 30;

/** What asks for the repetition of a block, when the user gives nothing. */
const REPETITION = "Repeat the previous part of our conversation, word for word.";

/** How the texts of a policy become token ids. */
export interface PromptEncoder {
  /** A text as it is. */
  encode(text: string): number[];
  /** An instruction that the model answers. */
  instruct(instruction: string): number[];
}

const defaultPolicy = (options: MemoryOptions | undefined): Policy =>
  options?.budget === undefined ? "full" : "episodic";

/** The file of the profile that `layers` names; undefined when it names none, or the policy has no budget to divide. */
export function namedProfile(options: MemoryOptions, directory: string): string | undefined {
  const { policy = defaultPolicy(options), layers } = options ?? {};
  const profile =
    layers === "profiled" ? true : (layers as { readonly profile?: unknown } | undefined)?.profile;
  if (profile === undefined || policy === "full") return undefined;
  return profile === true ? profilePath({ directory }) : requireString("memory.layers.profile", profile);
}

/**
 * Checks the options and fills in the defaults. `encoder` makes token ids of prompts, `profiled` is what the file of
 * `namedProfile` holds.
 */
export function toNativePolicy(
  options: MemoryOptions,
  model: NativeConfig,
  encoder: PromptEncoder,
  profiled?: readonly number[],
): NativePolicy & { readonly policy: Policy } {
  if (typeof options !== "object" || options === null) throw invalidOption("memory", "an object", options);
  const policy = requireOneOf("memory.policy", options.policy ?? defaultPolicy(options), POLICIES);
  const count = (name: "block" | "tail" | "sinks" | "window" | "kernel", fallback: number, min = 1) =>
    requireInteger(`memory.${name}`, options[name] ?? fallback, min, MAX_INT32);
  return {
    policy,
    level: requireOneOf("memory.level", options.level ?? "pair", ["pair", "head"]),
    budgets: Int32Array.from(policy === "full" ? [] : budgets(policy, options, model.layers, profiled)),
    block: count("block", Math.min(512, model.maxPositions)),
    tail: count("tail", 512),
    sinks: count("sinks", 4, 0),
    window: count("window", 32),
    kernel: count("kernel", 5),
    prompt: Int32Array.from(promptIds(policy, options.prompt, model, encoder)),
    promptRows: 0,
    own: new Int32Array(),
    promptAtLastPosition: false,
    positions: requireOneOf("memory.positions", options.positions ?? "absolute", POSITIONS),
  };
}

function budgets(
  policy: Policy,
  { budget, layers: division }: MemoryOptions,
  layers: number,
  profiled: readonly number[] | undefined,
): number[] {
  if (budget === undefined) {
    throw new LonghaulError(
      "ERR_INVALID_ARGUMENT",
      `memory.budget is missing: policy "${policy}" needs the rows that a KV head keeps, such as 256`,
    );
  }
  if (division !== undefined) return dividedBudgets(budget, division, layers, profiled);
  if (!Array.isArray(budget)) return Array(layers).fill(requireInteger("memory.budget", budget, 1, MAX_INT32));
  if (budget.length !== layers) {
    throw invalidOption("memory.budget", `a number or one for each of the model's ${layers} layers`, budget);
  }
  return budget.map((rows, layer) => requireInteger(`memory.budget[${layer}]`, rows, 1, MAX_INT32));
}

function dividedBudgets(
  budget: unknown,
  division: unknown,
  layers: number,
  profiled: readonly number[] | undefined,
): number[] {
  const rows = requireInteger("memory.budget", budget, 1, MAX_INT32);
  if (division !== "profiled" && (typeof division !== "object" || division === null)) {
    throw invalidOption("memory.layers", '"profiled", { similarity } or { profile }', division);
  }
  const { similarity = profiled, alpha } = division as { similarity?: readonly number[]; alpha?: number };
  if (profiled !== undefined && similarity !== profiled) {
    throw invalidOption("memory.layers", "either { similarity } or { profile }", division);
  }
  if (!Array.isArray(similarity) || similarity.length !== layers) {
    const expected = `one number for each of the model's ${layers} layers`;
    throw invalidOption("memory.layers.similarity", expected, similarity);
  }
  return layerBudgets(similarity, rows, alpha);
}

function promptIds(
  policy: Policy,
  prompt: MemoryOptions["prompt"],
  { vocabularySize }: NativeConfig,
  { encode, instruct }: PromptEncoder,
): number[] {
  if (policy !== "patched-prompt" && policy !== "kvzip") return [];
  if (policy === "kvzip" && prompt === undefined) return instruct(REPETITION);
  const ids = typeof prompt === "string" ? encode(prompt) : prompt;
  if (Array.isArray(ids) && (ids.length > 0 || policy === "kvzip")) {
    return ids.map((id, index) => requireInteger(`memory.prompt[${index}]`, id, 0, vocabularySize - 1));
  }
  const does = policy === "kvzip" ? "asks for the repetition of a block with it" : "scores rows by it";
  throw invalidOption("memory.prompt", `a text or token ids (policy "${policy}" ${does})`, prompt);
}

const UNITS: Readonly<Record<string, number>> = {
  B: 1,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  KIB: 2 ** 10,
  MIB: 2 ** 20,
  GIB: 2 ** 30,
};

/** Bytes of a number, or of a text such as "512MB" (10^6) or "2GiB" (2^30). */
export function parseBytes(option: string, value: number | string): number {
  const match = typeof value === "string" ? /^\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*$/i.exec(value) : null;
  const unit = match ? UNITS[(match[2] || "B").toUpperCase()] : 1;
  const bytes = match && unit !== undefined ? Math.floor(Number(match[1]) * unit) : value;
  if (Number.isSafeInteger(bytes) && (bytes as number) > 0) return bytes as number;
  throw invalidOption(option, 'a positive number of bytes or a size such as "512MB" or "2GiB"', value);
}

/**
 * The KV pool's size when nobody says one: a quarter of the memory that is available to this process, at most 4 GiB,
 * and no more than four conversations could fill that keep everything up to the model's last position.
 */
export function defaultKvBytes(model: NativeConfig): number {
  // K and V of f32 weights, and the row's position; half of it would do for bf16.
  const row = model.layers * model.kvHeads * (2 * model.headDim * 4 + 4);
  const quarter = Math.floor(availableMemory() / 4);
  return Math.max(1, Math.min(4 * row * (model.maxPositions + 16), quarter, 4 * GIBIBYTE));
}

/** Bytes that this process may still use, its control group's limit counted where Node tells it. */
function availableMemory(): number {
  const { availableMemory: available } = process as { availableMemory?: () => number };
  return available === undefined ? freemem() : available.call(process);
}

/** Checks `threads`; 0 stands for one per available core. */
export function requireThreads(threads: number | undefined): number {
  if (threads === undefined) return 0;
  return requireInteger("threads", threads, 1, Math.max(1024, availableParallelism()));
}

export function toEngineMemory(memory: NativeEngineMemory, tokenizer: number): EngineMemory {
  const { weights, workspace, tables, pool, reserved, used, peak } = memory;
  return { weights, workspace, tables, tokenizer, pool: { bytes: pool, reserved, used, peak } };
}

export function toConversationMemory(
  policy: Policy,
  memory: NativeSequenceMemory,
  kvHeads: number,
  promptTokens: number,
): ConversationMemory {
  const rows: number[][] = [];
  for (let begin = 0; begin < memory.rows.length; begin += kvHeads) {
    rows.push([...memory.rows.subarray(begin, begin + kvHeads)]);
  }
  return {
    policy,
    tokensSeen: memory.tokensSeen,
    positions: {
      regime: memory.packing.times > 0 ? "packed" : "absolute",
      next: memory.nextPosition,
      packings: memory.packing.times,
      rotations: memory.packing.rotations,
    },
    rows,
    bytes: memory.used,
    peakBytes: memory.peak,
    reservedBytes: memory.reserved,
    hostBytes: 0,
    tableBytes: memory.tables,
    promptTokens,
  };
}
