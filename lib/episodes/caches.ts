import type { NativeSequenceMemory } from "../native.js";
import type { Sequence } from "../sequence.js";

/** The caches of a conversation's episodes, wherever they are. */
export interface EpisodeCaches {
  /** The cache of an episode, ready to be asked. */
  acquire(episode: number, signal: AbortSignal): Promise<Sequence>;
  /** One an episode. */
  memory(): NativeSequenceMemory[];
  release(): Promise<void>;
}

/** All caches stay where the model computes. */
export class ResidentCaches implements EpisodeCaches {
  readonly #sequences: readonly Sequence[];

  constructor(sequences: readonly Sequence[]) {
    this.#sequences = sequences;
  }

  async acquire(episode: number): Promise<Sequence> {
    return this.#sequences[episode] as Sequence;
  }

  memory(): NativeSequenceMemory[] {
    return this.#sequences.map((sequence) => sequence.memory);
  }

  async release(): Promise<void> {
    await Promise.all(this.#sequences.map((sequence) => sequence.release()));
  }
}
