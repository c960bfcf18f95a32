import { throwIfAborted } from "../errors.js";
import { Sequence } from "../sequence.js";
import {
  type BuildRequest,
  type BuiltEpisodes,
  blocksOf,
  type CreateSequence,
  type EpisodeBuilder,
  withSequences,
} from "./builder.js";

/**
 * One prefill of the history for all episodes. Each block goes through the model once, the prompts of all episodes behind
 * it, and what any of them selects stays in one working cache until the last block, where each episode gets its own
 * selection. The caches are not quite those of `PerEpisodeBuilder`: a block is read behind the selections of all episodes.
 */
export class SharedBuilder implements EpisodeBuilder {
  readonly name = "shared";
  readonly #create: CreateSequence;
  readonly #block: number;
  readonly #union: readonly number[];

  /**
   * @param block tokens between two evictions
   * @param union rows a KV head that the working cache keeps, in each layer: at least the budget of what `create` makes
   */
  constructor(create: CreateSequence, block: number, union: readonly number[]) {
    this.#create = create;
    this.#block = block;
    this.#union = union;
  }

  build(request: BuildRequest): Promise<BuiltEpisodes> {
    const { prompts, history, signal, onProgress } = request;
    return withSequences(this.#create, request, async (sequences) => {
      const report = (tokens: number) => onProgress?.({ tokens, total: history.length });
      const working = await Sequence.ingestShared(sequences, history, this.#union, {
        signal,
        onProgress: report,
      });
      if (sequences.some(({ tokens }) => tokens < history.length)) throwIfAborted(signal);
      const blocks = blocksOf(history, this.#block);
      const forwardedTokens = prompts.reduce((sum, { length }) => sum + blocks * length, history.length);
      // At the end of the last block the sequences have filled while the working cache still was there.
      const peakBytes = sequences.reduce((sum, { memory }) => sum + memory.peak, working.peak);
      return { sequences, forwardedTokens, peakBytes, workingBytes: working.reserved };
    });
  }
}
