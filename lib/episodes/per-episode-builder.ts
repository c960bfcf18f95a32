import { throwIfAborted } from "../errors.js";
import {
  type BuildRequest,
  type BuiltEpisodes,
  type CreateSequence,
  type EpisodeBuilder,
  tokensOfEach,
  withSequences,
} from "./builder.js";

/** The paper's way: one block-wise prefill of the whole history for each episode, one after the other. */
export class PerEpisodeBuilder implements EpisodeBuilder {
  readonly name = "per-episode";
  readonly #create: CreateSequence;
  readonly #block: number;

  /** @param block tokens between two evictions of what `create` makes */
  constructor(create: CreateSequence, block: number) {
    this.#create = create;
    this.#block = block;
  }

  build(request: BuildRequest): Promise<BuiltEpisodes> {
    const { history, signal, onProgress } = request;
    return withSequences(this.#create, request, async (sequences) => {
      const total = sequences.length * history.length;
      let held = 0;
      let peakBytes = 0;
      for (const [episode, sequence] of sequences.entries()) {
        const report = (done: number) =>
          onProgress?.({ episode, tokens: episode * history.length + done, total });
        await sequence.ingest(history, { signal, onProgress: report });
        if (sequence.tokens < history.length) throwIfAborted(signal);
        const { used, peak } = sequence.memory;
        peakBytes = Math.max(peakBytes, held + peak);
        held += used;
      }
      return { sequences, forwardedTokens: tokensOfEach(request, this.#block), peakBytes, workingBytes: 0 };
    });
  }
}
