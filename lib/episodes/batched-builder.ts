import { throwIfAborted } from "../errors.js";
import { Sequence } from "../sequence.js";
import {
  type BuildRequest,
  type BuiltEpisodes,
  type CreateSequence,
  type EpisodeBuilder,
  tokensOfEach,
  withSequences,
} from "./builder.js";

/**
 * The prefills of all episodes as one batch: each block goes through the model once for each episode, in one pass, so
 * that weights are read once a block. The caches are those of `PerEpisodeBuilder`, to the bit.
 */
export class BatchedBuilder implements EpisodeBuilder {
  readonly name = "batched";
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
      const count = sequences.length;
      const total = count * history.length;
      const report = (done: number) => onProgress?.({ tokens: count * done, total });
      await Sequence.ingestTogether(sequences, history, { signal, onProgress: report });
      if (sequences.some(({ tokens }) => tokens < history.length)) throwIfAborted(signal);
      // All of them hold a layer's block at the same time.
      const peakBytes = sequences.reduce((sum, { memory }) => sum + memory.peak, 0);
      return { sequences, forwardedTokens: tokensOfEach(request, this.#block), peakBytes };
    });
  }
}
