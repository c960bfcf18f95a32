import { LonghaulError, throwIfAborted } from "../errors.js";
import type { Sequence } from "../sequence.js";

/** The ways to make the caches of a history's episodes. */
export const BUILDERS = ["per-episode", "batched", "shared"] as const;

export type BuilderName = (typeof BUILDERS)[number];

/** How far the prefills of a history's episodes have come. */
export interface BuildProgress {
  /** The episode whose cache is being made, from 0; left out where all of them are made at once. */
  readonly episode?: number;
  /** Tokens of the history that have been prefilled, each time counted. */
  readonly tokens: number;
  readonly total: number;
}

export interface BuildRequest {
  /** Token ids of each episode's patched prompt. */
  readonly prompts: readonly (readonly number[])[];
  /** Positions of each episode's own tokens, `ownPositions`; none where the policy does not ask for them. */
  readonly own: readonly (readonly number[])[];
  /** Token ids of the whole history. */
  readonly history: readonly number[];
  /**
   * Reserves one more sequence by `create`, and keeps it whatever happens; those that it reserved before may have to make
   * room for it, so they have to be done. Sequences that are made without it are the builder's own until they are built.
   */
  readonly admit: (create: () => Promise<Sequence>) => Promise<Sequence>;
  readonly signal: AbortSignal;
  readonly onProgress: ((progress: BuildProgress) => void) | undefined;
}

export interface BuiltEpisodes {
  /** One an episode; each holds what its prompt rates highest of the whole history. */
  readonly sequences: readonly Sequence[];
  /** Tokens that went through the model for it, prompts counted each time. */
  readonly forwardedTokens: number;
  /** The most that was held in the pool for it at any time, as far as the sequences do not tell. */
  readonly peakBytes: number;
  /** Set aside in the pool beside the sequences until they were made. */
  readonly workingBytes: number;
}

/** Makes the caches of a history's episodes, all or none. Ways that differ in cost give caches that mean the same. */
export interface EpisodeBuilder {
  readonly name: BuilderName;
  build(request: BuildRequest): Promise<BuiltEpisodes>;
}

/** Reserves the empty sequence of an episode with this prompt and these tokens of its own. */
export type CreateSequence = (prompt: readonly number[], own: readonly number[]) => Promise<Sequence>;

/**
 * Reserves the sequences of all episodes, so that what cannot fit is refused before the work, and has `fill` fill them.
 * When that fails, or the signal aborts, none stays.
 */
export async function withSequences<T>(
  create: CreateSequence,
  request: BuildRequest,
  fill: (sequences: readonly Sequence[]) => Promise<T>,
): Promise<T> {
  const sequences: Sequence[] = [];
  try {
    for (const [episode, prompt] of request.prompts.entries()) {
      sequences.push(await reserve(request, episode, () => create(prompt, request.own[episode] ?? [])));
      throwIfAborted(request.signal);
    }
    return await fill(sequences);
  } catch (error) {
    await Promise.all(sequences.map((sequence) => sequence.release()));
    throw error;
  }
}

/** Makes the sequence of an episode by `create`, or says which one does not fit. */
export async function reserve(
  { prompts }: BuildRequest,
  episode: number,
  create: () => Promise<Sequence>,
): Promise<Sequence> {
  try {
    return await create();
  } catch (error) {
    if (!(error instanceof LonghaulError) || error.code !== "ERR_OUT_OF_MEMORY") throw error;
    const message = `episode ${episode + 1} of ${prompts.length}: ${error.message}`;
    throw new LonghaulError(error.code, message, { cause: error });
  }
}

/** The blocks that a history is read in. */
export const blocksOf = (history: readonly number[], block: number): number =>
  Math.ceil(history.length / block);

/** Tokens that go through the model when the history does once for each prompt, and each prompt behind every block. */
export function tokensOfEach({ prompts, history }: BuildRequest, block: number): number {
  const blocks = blocksOf(history, block);
  return prompts.reduce((sum, { length }) => sum + history.length + blocks * length, 0);
}
