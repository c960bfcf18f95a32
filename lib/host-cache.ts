import type { NativeSequenceImage, NativeSequenceMemory } from "./native.js";
import { type CacheSource, Sequence } from "./sequence.js";
import type { TaskRunner } from "./tasks.js";

/** kPageRows of native/core/ops.h. */
const PAGE_ROWS = 16;

/** What a sequence was, in the memory of this process. */
export class HostCache implements CacheSource {
  readonly #image: NativeSequenceImage;
  /** Keys and values, head after head, of heads that have any. */
  readonly #rows: readonly Uint8Array[];

  static async of(source: CacheSource, signal: AbortSignal): Promise<HostCache> {
    const image = await source.image(signal);
    const rows: Uint8Array[] = [];
    for await (const head of source.rows(image, signal)) rows.push(head);
    return new HostCache(image, rows);
  }

  private constructor(image: NativeSequenceImage, rows: readonly Uint8Array[]) {
    this.#image = image;
    this.#rows = rows;
  }

  /** Of keys, values, positions, counts and the policy's arrays. */
  get bytes(): number {
    const { positions, lengths, recent, policy } = this.#image;
    const arrays = [...this.#rows, positions, lengths, recent, policy.prompt, policy.own, policy.budgets];
    return arrays.reduce((sum, { byteLength }) => sum + byteLength, 0);
  }

  /** Tokens of the stream, as `Sequence.tokens` counts them. */
  get tokens(): number {
    return this.#image.tokensSeen + (this.#image.pending < 0 ? 0 : 1);
  }

  /** What it would take where the model computes: nothing. */
  get memory(): NativeSequenceMemory {
    const { tokensSeen, nextPosition, packing, tailRows, lengths: rows } = this.#image;
    return { tokensSeen, nextPosition, packing, tailRows, rows, reserved: 0, used: 0, peak: 0, tables: 0 };
  }

  async image(): Promise<NativeSequenceImage> {
    return this.#image;
  }

  async *rows(): AsyncGenerator<Uint8Array, void> {
    yield* this.#rows;
  }

  /** The same rows under another prompt, which scores what comes from now on. */
  withPrompt(prompt: readonly number[]): HostCache {
    const policy = { ...this.#image.policy, prompt: Int32Array.from(prompt) };
    // It has not been more than this: the other prompt's passes are the other cache's peak.
    const peakPages = this.#image.lengths.reduce((sum, rows) => sum + Math.ceil(rows / PAGE_ROWS), 0);
    return new HostCache({ ...this.#image, policy, peakPages }, this.#rows);
  }

  /** Brings it back. When that fails, or the signal aborts, nothing of it stays where the model computes. */
  restore(runner: TaskRunner, signal: AbortSignal): Promise<Sequence> {
    const rows = this.#rows.values();
    return Sequence.restore(runner, this.#image, async () => rows.next().value as Uint8Array, signal);
  }
}
