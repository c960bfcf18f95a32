import { LonghaulError, throwIfAborted } from "./errors.js";
import type {
  NativeEngine,
  NativeEvent,
  NativeGenerateOptions,
  NativePolicy,
  NativeSequenceImage,
  NativeSequenceMemory,
} from "./native.js";
import type { TaskRunner } from "./tasks.js";

interface IngestOptions {
  readonly signal: AbortSignal;
  readonly onProgress?: ((tokens: number) => void) | undefined;
}

interface DrawOptions {
  readonly signal: AbortSignal;
  /** `drawn` counts the tokens of this task so far; the task goes on to evict only what was confirmed. */
  readonly onToken: (token: number, confirm: (drawn: number) => void) => void;
}

/** Where the image and the rows of a sequence come from. */
export interface CacheSource {
  /** Everything that `Sequence.restore` needs, but keys and values. */
  image(signal: AbortSignal): Promise<NativeSequenceImage>;
  /** Keys and values of one head after the other, as `Sequence.restore` wants them. */
  rows(image: NativeSequenceImage, signal: AbortSignal): AsyncGenerator<Uint8Array, void>;
}

/** One token stream of the native engine, and how many tokens are in it. */
export class Sequence implements CacheSource {
  readonly #runner: TaskRunner;
  readonly #id: number;
  /** Tokens of the stream, the one that was drawn last and has not run yet counted. */
  #tokens: number;
  /** Those since it was made of two others. */
  readonly #added: number[] | undefined;

  /** Rejects with the signal's reason when it aborts before there is a sequence. */
  static async create(
    runner: TaskRunner,
    policy: NativePolicy,
    signal?: AbortSignal,
    adapter = 0,
  ): Promise<Sequence> {
    const event = await runner.run((native) => native.createSequence(policy, adapter), { signal });
    if (event.finish === "cancelled") throw signal?.reason;
    return new Sequence(runner, event.sequence);
  }

  /**
   * The sequence of an image; `read` brings keys and values, [2, rows, head_dim] of one head after the other. When that
   * fails, or the signal aborts, nothing stays.
   */
  static async restore(
    runner: TaskRunner,
    image: NativeSequenceImage,
    read: (bytes: number) => Promise<Uint8Array>,
    signal: AbortSignal,
  ): Promise<Sequence> {
    const start = (native: NativeEngine) => native.importSequence(image);
    const { sequence: id } = await finished(runner, start, signal);
    const tokens = image.tokensSeen + (image.pending < 0 ? 0 : 1);
    const sequence = new Sequence(runner, id, tokens);
    try {
      for (const { layer, head, bytes } of headsOf(image)) {
        const rows = await read(bytes);
        await finished(runner, (native) => native.importRows(id, layer, head, rows), signal);
      }
      return sequence;
    } catch (error) {
      await sequence.release();
      throw error;
    }
  }

  private constructor(runner: TaskRunner, id: number, tokens = 0, added?: number[]) {
    this.#runner = runner;
    this.#id = id;
    this.#tokens = tokens;
    this.#added = added;
  }

  /**
   * A sequence of its own that goes on as this one would, with the rows beside it that `other` kept of the first
   * `sharedTokens` tokens, which both have seen.
   */
  async unite(other: Sequence, sharedTokens: number, signal: AbortSignal): Promise<Sequence> {
    const start = (native: NativeEngine) => native.uniteSequences(this.#id, other.#id, sharedTokens);
    const { sequence } = await finished(this.#runner, start, signal);
    return new Sequence(this.#runner, sequence, this.#tokens, []);
  }

  /** What a united sequence has taken in, and not forgotten, since it was made. */
  get added(): readonly number[] {
    return this.#added ?? [];
  }

  /** Runs `ids`, which the tail keeps whole as far as it holds them. */
  async append(ids: readonly number[]): Promise<void> {
    const tokens = Int32Array.from(ids);
    await this.#runner.run((native) => native.ingest(this.#id, tokens, true));
    this.#tokens += ids.length;
  }

  get tokens(): number {
    return this.#tokens;
  }

  get memory(): NativeSequenceMemory {
    return this.#runner.call((native) => native.sequenceMemory(this.#id));
  }

  /** The newest tokens that can still be forgotten: those after the last eviction. */
  get forgettable(): number {
    const { tokensSeen, tailRows } = this.memory;
    return tailRows + (this.#tokens - tokensSeen);
  }

  /** Runs `ids`, or a part of them when the signal aborts: `tokens` tells. */
  async ingest(ids: readonly number[], { signal, onProgress }: IngestOptions): Promise<void> {
    const tokens = Int32Array.from(ids);
    try {
      await this.#runner.run((native) => native.ingest(this.#id, tokens, false), {
        signal,
        onEvent: (progress: NativeEvent) => onProgress?.(progress.done),
      });
    } finally {
      this.#count();
    }
  }

  /** Runs `ids`, or a part of them, in several sequences of one engine at once. */
  static async ingestTogether(
    sequences: readonly Sequence[],
    ids: readonly number[],
    options: IngestOptions,
  ): Promise<void> {
    const tokens = Int32Array.from(ids);
    await Sequence.#ingestAll(sequences, options, (native, targets) => native.ingestTogether(targets, tokens));
  }

  /**
   * Runs `ids` once for several empty sequences of one engine, whose prompts select rows of one working cache with
   * `budgets` rows a KV head in each layer. They stay empty when the signal aborts. Resolves with the working cache's bytes.
   */
  static async ingestShared(
    sequences: readonly Sequence[],
    ids: readonly number[],
    budgets: readonly number[],
    options: IngestOptions,
  ): Promise<{ readonly reserved: number; readonly peak: number }> {
    const [tokens, most] = [Int32Array.from(ids), Int32Array.from(budgets)];
    return Sequence.#ingestAll(sequences, options, (native, targets) =>
      native.ingestShared(targets, tokens, most),
    );
  }

  static async #ingestAll(
    sequences: readonly Sequence[],
    { signal, onProgress }: IngestOptions,
    start: (native: NativeEngine, targets: readonly number[]) => number,
  ): Promise<NativeEvent> {
    const runner = (sequences[0] as Sequence).#runner;
    const targets = sequences.map((sequence) => sequence.#id);
    try {
      return await runner.run((native) => start(native, targets), {
        signal,
        onEvent: (progress: NativeEvent) => onProgress?.(progress.done),
      });
    } finally {
      for (const sequence of sequences) sequence.#count();
    }
  }

  /** Runs `ids` and draws tokens. Resolves with what ended it. */
  async generate(
    ids: readonly number[],
    options: NativeGenerateOptions,
    { signal, onToken }: DrawOptions,
  ): Promise<NativeEvent["finish"]> {
    const tokens = Int32Array.from(ids);
    const before = this.#tokens;
    const drawn: number[] = [];
    const onEvent = (progress: NativeEvent) => {
      const confirm = (count: number) => this.#runner.call((native) => native.confirm(progress.task, count));
      for (const token of progress.tokens ?? []) {
        drawn.push(token);
        onToken(token, confirm);
      }
    };
    try {
      const event = await this.#runner.run((native) => native.generate(this.#id, tokens, options), {
        signal,
        onEvent,
      });
      return event.finish;
    } finally {
      if (drawn.length > 0) this.#tokens += ids.length + drawn.length;
      else this.#count();
      this.#added?.push(...[...ids, ...drawn].slice(0, this.#tokens - before));
    }
  }

  /** After a task that left no drawn token waiting: the engine knows how far it came. */
  #count(): void {
    // One that never began has left the waiting token where it was.
    if (!this.#runner.disposed) this.#tokens = Math.max(this.#tokens, this.memory.tokensSeen);
  }

  /** Forgets the newest `count` tokens. */
  async forget(count: number): Promise<void> {
    if (count === 0) return;
    await this.#runner.run((native) => native.truncate(this.#id, count));
    this.#tokens -= count;
    this.#added?.splice(-count);
  }

  async image(signal: AbortSignal): Promise<NativeSequenceImage> {
    const event = await finished(this.#runner, (native) => native.exportSequence(this.#id), signal);
    return event.image as NativeSequenceImage;
  }

  /** Never more than one head's in memory. */
  async *rows(image: NativeSequenceImage, signal: AbortSignal): AsyncGenerator<Uint8Array, void> {
    for (const { layer, head } of headsOf(image)) {
      const start = (native: NativeEngine) => native.exportRows(this.#id, layer, head);
      const { bytes } = await finished(this.#runner, start, signal);
      yield bytes as Uint8Array;
    }
  }

  async release(): Promise<void> {
    if (this.#runner.disposed) return;
    try {
      await this.#runner.run((native) => native.releaseSequence(this.#id));
    } catch (error) {
      // An engine that goes away takes its sequences along.
      if (!(error instanceof LonghaulError) || error.code !== "ERR_DISPOSED") throw error;
    }
  }
}

/** Runs a task that is done or not begun; rejects with the signal's reason when it was not. */
async function finished(
  runner: TaskRunner,
  start: (native: NativeEngine) => number,
  signal: AbortSignal,
): Promise<NativeEvent> {
  const event = await runner.run(start, { signal });
  if (event.finish === "cancelled") throwIfAborted(signal);
  return event;
}

/** The heads of an image that have rows, in order, and how many bytes their keys and values take. */
function* headsOf({ layers, kvHeads, headDim, dtype, lengths }: NativeSequenceImage) {
  const rowBytes = 2 * headDim * (dtype === "f32" ? 4 : 2);
  for (let layer = 0; layer < layers; layer++) {
    for (let head = 0; head < kvHeads; head++) {
      const rows = lengths[layer * kvHeads + head] as number;
      if (rows > 0) yield { layer, head, bytes: rows * rowBytes };
    }
  }
}
