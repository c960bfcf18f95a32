import { randomInt } from "node:crypto";
import { join } from "node:path";
import { invalidOption, requireInteger, requireNumber } from "./errors.js";
import type { NativeGenerateOptions } from "./native.js";
import { corruptFile, readOptionalJson } from "./text/files.js";

/**
 * How tokens are drawn. What is left out is what the model's generation_config.json recommends, and without one the
 * most probable token is taken each time.
 */
export interface GenerateOptions {
  /** Default 256. An answer ends before that where the model's positions do. */
  readonly maxTokens?: number;
  /** 0 takes the most probable token, the lowest id on a tie. */
  readonly temperature?: number;
  /** Draws from the `topK` most probable tokens; 0 is off. */
  readonly topK?: number;
  /** Draws from the most probable tokens that together have this probability; 1 is off. */
  readonly topP?: number;
  /** Leaves out tokens less probable than `minP` times the most probable one; 0 is off. */
  readonly minP?: number;
  /** Above 1: tokens of the prompt of this call and of its answer become less probable. */
  readonly repetitionPenalty?: number;
  /** The same seed and stream give the same tokens. Default: a random one. */
  readonly seed?: number;
  /**
   * The answer ends before the first of these texts. Nothing of it stays in the conversation, unless a full tail had to
   * be evicted between its first token and its last.
   */
  readonly stop?: string | readonly string[];
  /** Token ids that end the answer. Default: the model's own; with none it runs on to `maxTokens`. */
  readonly stopTokens?: readonly number[];
  /** Aborts the call, which then rejects with the signal's reason. */
  readonly signal?: AbortSignal;
}

/** `GenerateOptions`, checked and complete. */
export interface Drawing {
  readonly stops: readonly string[];
  /** Undefined: the model's. */
  readonly stopTokens: ReadonlySet<number> | undefined;
  readonly maxTokens: number | undefined;
  readonly native: Omit<NativeGenerateOptions, "maxTokens" | "stopTokens" | "mayEvict" | "confirm">;
}

/** What a model recommends. */
export type GenerationDefaults = Pick<
  GenerateOptions,
  "temperature" | "topK" | "topP" | "minP" | "repetitionPenalty"
>;

const MAX_INT32 = 2 ** 31 - 1;

/** The recommendations in a model's generation_config.json, if it has one. */
export async function readGenerationDefaults(directory: string): Promise<GenerationDefaults> {
  const path = join(directory, "generation_config.json");
  const config = await readOptionalJson(path);
  if (config === null) return {};
  const read = (key: string): number | undefined => {
    const value = config[key] ?? undefined;
    if (value === undefined || typeof value === "number") return value;
    throw corruptFile(path, `"${key}" must be a number`);
  };
  const penalty = read("repetition_penalty");
  const always: GenerationDefaults = penalty === undefined ? {} : { repetitionPenalty: penalty };
  if (config.do_sample !== true) return always;
  // Hugging Face draws at temperature 1 where the file says only that it draws.
  return {
    ...always,
    temperature: read("temperature") ?? 1,
    topK: read("top_k") ?? 0,
    topP: read("top_p") ?? 1,
    minP: read("min_p") ?? 0,
  };
}

/** Checks the options and completes them with `defaults`. */
export function toDrawing(options: GenerateOptions, defaults: GenerationDefaults): Drawing {
  if (typeof options !== "object" || options === null) throw invalidOption("options", "an object", options);
  const { maxTokens, seed, signal } = options;
  if (signal !== undefined && !(signal instanceof AbortSignal)) {
    throw invalidOption("signal", "an AbortSignal", signal);
  }
  const choose = (name: keyof GenerationDefaults, off: number): number =>
    options[name] ?? defaults[name] ?? off;
  return {
    stops: stopStrings(options.stop),
    stopTokens: stopTokens(options.stopTokens),
    maxTokens: maxTokens === undefined ? undefined : requireInteger("maxTokens", maxTokens, 1, MAX_INT32),
    native: {
      temperature: requireNumber("temperature", choose("temperature", 0), 0, 100),
      topK: requireInteger("topK", choose("topK", 0), 0, MAX_INT32),
      topP: requireNumber("topP", choose("topP", 1), 0, 1),
      minP: requireNumber("minP", choose("minP", 0), 0, 1),
      repetitionPenalty: requireNumber("repetitionPenalty", choose("repetitionPenalty", 1), 0.01, 100),
      seed: seed === undefined ? randomInt(2 ** 47) : requireInteger("seed", seed, 0),
    },
  };
}

function stopTokens(ids: GenerateOptions["stopTokens"]): ReadonlySet<number> | undefined {
  if (ids === undefined) return undefined;
  if (!Array.isArray(ids)) throw invalidOption("stopTokens", "an array of token ids", ids);
  return new Set(ids.map((id, index) => requireInteger(`stopTokens[${index}]`, id, 0, MAX_INT32)));
}

function stopStrings(stop: GenerateOptions["stop"]): readonly string[] {
  const stops: readonly unknown[] = Array.isArray(stop) ? stop : stop === undefined ? [] : [stop];
  for (const text of stops) {
    if (typeof text !== "string" || text === "") throw invalidOption("stop", "texts that are not empty", text);
  }
  return stops as readonly string[];
}
