import { LonghaulError, throwIfAborted } from "../errors.js";
import type { Sequence } from "../sequence.js";

/** How far the prefills of a history's episodes have come. */
export interface BuildProgress {
  /** The episode whose cache is being made, from 0. */
  readonly episode: number;
  /** Tokens of the history that have been prefilled, each time counted. */
  readonly tokens: number;
  readonly total: number;
}

export interface BuildRequest {
  /** Token ids of each episode's patched prompt. */
  readonly prompts: readonly (readonly number[])[];
  /** Token ids of the whole history. */
  readonly history: readonly number[];
  /**
   * Reserves one more sequence by `create`, and keeps it whatever happens; those that it reserved before may have to make
   * room for it, so they have to be done.
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
}

/** Makes the caches of a history's episodes, all or none. Ways that differ in cost give caches that mean the same. */
export interface EpisodeBuilder {
  readonly name: "per-episode";
  build(request: BuildRequest): Promise<BuiltEpisodes>;
}

/** The paper's way: one block-wise prefill of the whole history for each episode, one after the other. */
export class PerEpisodeBuilder implements EpisodeBuilder {
  readonly name = "per-episode";
  readonly #create: (prompt: readonly number[]) => Promise<Sequence>;
  readonly #block: number;

  /** @param create reserves an empty sequence that is evicted by the prompt after each `block` tokens */
  constructor(create: (prompt: readonly number[]) => Promise<Sequence>, block: number) {
    this.#create = create;
    this.#block = block;
  }

  async build(request: BuildRequest): Promise<BuiltEpisodes> {
    const { prompts, history, signal } = request;
    const sequences: Sequence[] = [];
    for (const episode of prompts.keys()) {
      const sequence = await this.#reserve(episode, request);
      sequences.push(sequence);
      throwIfAborted(signal);
      await fill(sequence, episode, request);
    }
    const blocks = Math.ceil(history.length / this.#block);
    const forwardedTokens = prompts.reduce((sum, { length }) => sum + history.length + blocks * length, 0);
    return { sequences, forwardedTokens };
  }

  async #reserve(episode: number, { prompts, admit }: BuildRequest): Promise<Sequence> {
    try {
      return await admit(() => this.#create(prompts[episode] as readonly number[]));
    } catch (error) {
      if (!(error instanceof LonghaulError) || error.code !== "ERR_OUT_OF_MEMORY") throw error;
      const message = `episode ${episode + 1} of ${prompts.length}: ${error.message}`;
      throw new LonghaulError(error.code, message, { cause: error });
    }
  }
}

async function fill(
  sequence: Sequence,
  episode: number,
  { prompts, history, signal, onProgress }: BuildRequest,
): Promise<void> {
  const total = prompts.length * history.length;
  const report = (done: number) => onProgress?.({ episode, tokens: episode * history.length + done, total });
  await sequence.ingest(history, { signal, onProgress: report });
  if (sequence.tokens < history.length) throwIfAborted(signal);
}
