import { requireTokenIds } from "./conversation.js";
import { invalidOption, LonghaulError, requireInteger, requireString, throwIfAborted } from "./errors.js";
import type { NativeModel, NativeProfileOptions } from "./native.js";
import type { TaskRunner } from "./tasks.js";
import type { Tokenizer } from "./text/tokenizer.js";

/** How far a profile has come, over all its texts. */
export interface ProfileProgress {
  readonly tokens: number;
  readonly total: number;
}

/**
 * What a token sees in the windowed run that is compared with full causal attention: the first `sinks` tokens of the
 * text, the last `window` tokens of the block before its own, and its own block up to itself. EpiCache has 128, 2048
 * and 4096, which are the defaults for models of 16384 positions and more. The others get a block of a quarter of
 * their positions.
 */
export interface ProfileOptions {
  /** Default: a 32nd of the block, at most 128. */
  readonly sinks?: number;
  /** At most `block`. Default: half the block, at most 2048. */
  readonly window?: number;
  /** Tokens that both runs take in one pass. Default: a quarter of the model's positions, at most 4096. */
  readonly block?: number;
  /** Tokens of each text that are read; the rest of it is left out. Default: 16384, at most the model's positions. */
  readonly maxTokens?: number;
  /** Called after each block. */
  readonly onProgress?: (progress: ProfileProgress) => void;
  readonly signal?: AbortSignal;
}

/** How much the keys of each layer depend on distant tokens. */
export interface LayerProfile {
  /**
   * One number a layer: the cosine of a token's key under full causal attention with the same token's under the window,
   * mean over KV heads and tokens (EpiCache, arXiv 2509.17396, equation 9). 1 for layer 0; `layerBudgets` takes them.
   */
  readonly similarity: readonly number[];
  /** Tokens that the mean is over. */
  readonly tokens: number;
  /** Texts that they come from. */
  readonly texts: number;
  readonly sinks: number;
  readonly window: number;
  readonly block: number;
}

/** What profiling needs of an engine. */
export interface ProfileContext {
  readonly runner: TaskRunner;
  readonly model: NativeModel;
  readonly tokenizer: Tokenizer;
}

const MAX_INT32 = 2 ** 31 - 1;

/** `Engine.profile`. */
export async function profileLayers(
  { runner, model, tokenizer }: ProfileContext,
  texts: readonly (string | readonly number[])[],
  options: ProfileOptions,
): Promise<LayerProfile> {
  const { signal, onProgress } = options;
  const seen = requireWindow(options, model);
  const maxTokens = requireInteger(
    "maxTokens",
    options.maxTokens ?? Math.min(16384, model.maxPositions),
    1,
    model.maxPositions,
  );
  if (!Array.isArray(texts) || texts.length === 0)
    throw invalidOption("texts", "an array of texts that is not empty", texts);
  const samples = texts.map((text, index) => {
    const name = `texts[${index}]`;
    const ids = Array.isArray(text)
      ? requireTokenIds(name, text, model)
      : tokenizer.encode(requireString(name, text));
    return requireLength(name, ids.slice(0, maxTokens), seen);
  });

  const total = samples.reduce((sum, ids) => sum + ids.length, 0);
  const sums: number[] = Array(model.layers).fill(0);
  let before = 0;
  // One at a time: each holds the keys and values of a whole text.
  for (const ids of samples) {
    const tell = (done: number) => onProgress?.({ tokens: before + done, total });
    const event = await runner.run((native) => native.profile(Int32Array.from(ids), seen), {
      signal,
      onEvent: ({ done }) => tell(done),
    });
    throwIfAborted(signal);
    tell(ids.length);
    before += ids.length;
    event.values?.forEach((similarity, layer) => {
      sums[layer] = (sums[layer] as number) + similarity * ids.length;
    });
  }
  return { similarity: sums.map((sum) => sum / total), tokens: total, texts: samples.length, ...seen };
}

function requireWindow(options: ProfileOptions, { maxPositions }: NativeModel): NativeProfileOptions {
  const quarter = Math.max(1, Math.floor(maxPositions / 4));
  const block = requireInteger("block", options.block ?? Math.min(4096, quarter), 1, MAX_INT32);
  const half = Math.max(1, Math.floor(block / 2));
  const window = requireInteger("window", options.window ?? Math.min(2048, half), 1, block);
  const few = Math.min(128, Math.floor(block / 32));
  return { sinks: requireInteger("sinks", options.sinks ?? few, 0, MAX_INT32), window, block };
}

/** Where every token sees all tokens before it in both runs, layers would look insensitive. */
function requireLength<T extends readonly number[]>(
  name: string,
  ids: T,
  { sinks, window, block }: NativeProfileOptions,
): T {
  // The first block that has more tokens before it than are seen.
  const first = Math.floor((sinks + window) / block) + 1;
  if (ids.length > first * block) return ids;
  throw new LonghaulError(
    "ERR_INVALID_ARGUMENT",
    `${name} has ${ids.length} tokens to profile by and needs ${first * block + 1}: up to there nothing is out of sight ` +
      `with sinks ${sinks}, window ${window} and block ${block}; take a longer text or a smaller block`,
  );
}
