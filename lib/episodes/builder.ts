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
    try {
      // All are reserved before the first is filled: what cannot fit is refused before the work.
      for (const [episode, prompt] of prompts.entries()) {
        sequences.push(await this.#reserve(prompt, episode, prompts.length));
        throwIfAborted(signal);
      }
      for (const episode of sequences.keys()) await fill(sequences, episode, request);
    } catch (error) {
      await Promise.all(sequences.map((sequence) => sequence.release()));
      throw error;
    }
    const blocks = Math.ceil(history.length / this.#block);
    const forwardedTokens = prompts.reduce((sum, { length }) => sum + history.length + blocks * length, 0);
    return { sequences, forwardedTokens };
  }

  async #reserve(prompt: readonly number[], episode: number, episodes: number): Promise<Sequence> {
    try {
      return await this.#create(prompt);
    } catch (error) {
      if (!(error instanceof LonghaulError) || error.code !== "ERR_OUT_OF_MEMORY") throw error;
      const message = `episode ${episode + 1} of ${episodes}: ${error.message}`;
      throw new LonghaulError(error.code, message, { cause: error });
    }
  }
}

async function fill(
  sequences: readonly Sequence[],
  episode: number,
  { history, signal, onProgress }: BuildRequest,
): Promise<void> {
  const sequence = sequences[episode] as Sequence;
  const total = sequences.length * history.length;
  const report = (done: number) => onProgress?.({ episode, tokens: episode * history.length + done, total });
  await sequence.ingest(history, { signal, onProgress: report });
  if (sequence.tokens < history.length) throwIfAborted(signal);
}
