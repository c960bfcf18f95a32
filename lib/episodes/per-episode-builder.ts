import { throwIfAborted } from "../errors.js";
import type { Sequence } from "../sequence.js";
import {
  type BuildRequest,
  type BuiltEpisodes,
  type CreateSequence,
  type EpisodeBuilder,
  reserve,
  tokensOfEach,
} from "./builder.js";

/**
 * The paper's way: one block-wise prefill of the whole history for each episode, one after the other; where
 * they do not all fit, those that are done make room for the next.
 */
export class PerEpisodeBuilder implements EpisodeBuilder {
  readonly name = "per-episode";
  readonly #create: CreateSequence;
  readonly #block: number;

  /** @param block tokens between two evictions of what `create` makes */
  constructor(create: CreateSequence, block: number) {
    this.#create = create;
    this.#block = block;
  }

  async build(request: BuildRequest): Promise<BuiltEpisodes> {
    const { prompts, own, history, admit, signal, onProgress } = request;
    const sequences: Sequence[] = [];
    const total = prompts.length * history.length;
    let peakBytes = 0;
    for (const [episode, prompt] of prompts.entries()) {
      const sequence = await reserve(request, episode, () =>
        admit(() => this.#create(prompt, own[episode] ?? [])),
      );
      throwIfAborted(signal);
      const report = (done: number) =>
        onProgress?.({ episode, tokens: episode * history.length + done, total });
      await sequence.ingest(history, { signal, onProgress: report });
      if (sequence.tokens < history.length) throwIfAborted(signal);
      peakBytes = Math.max(peakBytes, sequence.memory.peak);
      sequences.push(sequence);
    }
    return { sequences, forwardedTokens: tokensOfEach(request, this.#block), peakBytes, workingBytes: 0 };
  }
}
