import { LonghaulError } from "../errors.js";
import { HostCache } from "../host-cache.js";
import type { NativeSequenceMemory } from "../native.js";
import type { CacheSource, Sequence } from "../sequence.js";
import type { TaskRunner } from "../tasks.js";

/** What the cache of one episode takes, where the model computes and in the memory of this process. */
export interface CacheMemory extends NativeSequenceMemory {
  /** Whether it is where the model computes. */
  readonly resident: boolean;
  /** Of its copy on the host. */
  readonly hostBytes: number;
}

/** A cache that is resident, on the host, or both. */
interface Slot {
  sequence: Sequence | undefined;
  copy: HostCache | undefined;
  /** When it was last acquired. */
  used: number;
}

/**
 * The caches of a conversation's episodes. Those used last are where the model computes, as many as `limit` allows and
 * the pool has room for; the others wait in host memory. One that was changed is copied to the host when it has to make
 * room; one that was not still has its copy there.
 */
export class EpisodeCaches {
  readonly #runner: TaskRunner;
  readonly #limit: number;
  readonly #slots: Slot[] = [];
  /** What it admitted, whether it is still resident or not. */
  readonly #admitted = new WeakSet<Sequence>();
  #clock = 0;
  /** Whether one had to make room already, and so will others. */
  #full = false;
  #peakBytes = 0;

  constructor(runner: TaskRunner, limit: number) {
    this.#runner = runner;
    this.#limit = limit;
  }

  get count(): number {
    return this.#slots.length;
  }

  /** The most bytes of pages that they held together. */
  get peakBytes(): number {
    this.#observe();
    return this.#peakBytes;
  }

  /** One more cache, which `create` reserves: others make room for it, the longest unused first. */
  async admit(create: () => Promise<Sequence>, signal: AbortSignal): Promise<Sequence> {
    const sequence = await this.#withRoom(create, signal);
    this.#admitted.add(sequence);
    this.#slots.push({ sequence, copy: undefined, used: ++this.#clock });
    return sequence;
  }

  /** Takes sequences over that were made elsewhere, all or none; those that it admitted itself are no news. */
  async adopt(sequences: readonly Sequence[], signal: AbortSignal): Promise<void> {
    const strange = sequences.filter((sequence) => !this.#admitted.has(sequence));
    try {
      for (const sequence of strange) await this.admit(async () => sequence, signal);
    } catch (error) {
      const left = strange.filter((sequence) => !this.#admitted.has(sequence));
      await Promise.all(left.map((sequence) => sequence.release()));
      throw error;
    }
  }

  /**
   * The cache of an episode, ready to be asked. When it has no room or the signal aborts, nothing is lost: all are where
   * the model computes or on the host.
   */
  async acquire(episode: number, signal: AbortSignal): Promise<Sequence> {
    const slot = this.#slots[episode] as Slot;
    for (const each of this.#slots) {
      if (!isFresh(each)) each.copy = undefined;
    }
    const { copy } = slot;
    slot.sequence ??= await this.#withRoom(() => (copy as HostCache).restore(this.#runner, signal), signal);
    slot.used = ++this.#clock;
    return slot.sequence;
  }

  /** The caches of two episodes at once, the first of which is asked. */
  async acquirePair(
    first: number,
    second: number,
    signal: AbortSignal,
  ): Promise<readonly [Sequence, Sequence]> {
    const other = await this.acquire(second, signal);
    const sequence = await this.acquire(first, signal);
    if (this.#slots[second]?.sequence === other) return [sequence, other];
    const advice = "raise kvBytes, lower memory.budget, or leave memory.topEpisodes out";
    throw new LonghaulError(
      "ERR_OUT_OF_MEMORY",
      `the KV pool has no room for the caches of two episodes at once: ${advice}`,
    );
  }

  /**
   * Copies the one that has to make room next, if one will, so that it can go at once. For the time in which it is not
   * known yet which episode comes next and the engine has nothing else to do.
   */
  async prepare(signal: AbortSignal): Promise<void> {
    const next = this.#full ? this.#oldest() : undefined;
    // The one in use would have to be copied after every turn.
    if (next === undefined || next.used === this.#clock) return;
    await this.#copyOf(next, signal);
  }

  /** A further cache with the rows of another one's, scored by a prompt of its own from now on. */
  async fork(episode: number, prompt: readonly number[], signal: AbortSignal): Promise<Sequence> {
    const slot = this.#slots[episode] as Slot;
    const copy = (isFresh(slot) && slot.copy) || (await HostCache.of(sourceOf(slot), signal));
    return this.admit(() => copy.withPrompt(prompt).restore(this.#runner, signal), signal);
  }

  /** Brings all of them to the host. */
  async offload(signal: AbortSignal): Promise<void> {
    while (this.#resident.length > 0) await this.#makeRoom(signal);
  }

  /** One an episode. */
  memory(): CacheMemory[] {
    return this.#slots.map(({ sequence, copy }) => {
      const hostBytes = copy?.bytes ?? 0;
      if (sequence !== undefined) return { ...sequence.memory, resident: true, hostBytes };
      return { ...(copy as HostCache).memory, resident: false, hostBytes };
    });
  }

  /** What is to be saved of each, wherever it is. */
  get sources(): CacheSource[] {
    return this.#slots.map(sourceOf);
  }

  async release(): Promise<void> {
    const sequences = this.#resident.map(({ sequence }) => sequence as Sequence);
    this.#slots.length = 0;
    await Promise.all(sequences.map((sequence) => sequence.release()));
  }

  get #resident(): Slot[] {
    return this.#slots.filter(({ sequence }) => sequence !== undefined);
  }

  #oldest(): Slot | undefined {
    return this.#resident.sort((a, b) => a.used - b.used)[0];
  }

  async #withRoom(create: () => Promise<Sequence>, signal: AbortSignal): Promise<Sequence> {
    while (this.#resident.length >= this.#limit) await this.#makeRoom(signal);
    for (;;) {
      try {
        return await create();
      } catch (error) {
        const full = error instanceof LonghaulError && error.code === "ERR_OUT_OF_MEMORY";
        if (!full || this.#resident.length === 0) throw error;
        await this.#makeRoom(signal);
      }
    }
  }

  async #makeRoom(signal: AbortSignal): Promise<void> {
    const slot = this.#oldest() as Slot;
    await this.#copyOf(slot, signal);
    this.#observe();
    this.#full = true;
    const { sequence } = slot;
    slot.sequence = undefined;
    await sequence?.release();
  }

  async #copyOf(slot: Slot, signal: AbortSignal): Promise<void> {
    if (slot.copy === undefined || !isFresh(slot)) slot.copy = await HostCache.of(sourceOf(slot), signal);
  }

  /** What they all hold, and the most that one of them had on top of that inside a pass. */
  #observe(): void {
    const each = this.#resident.map(({ sequence }) => (sequence as Sequence).memory);
    const held = each.reduce((sum, { used }) => sum + used, 0);
    const inPass = Math.max(0, ...each.map(({ peak, used }) => peak - used));
    this.#peakBytes = Math.max(this.#peakBytes, held + inPass);
  }
}

/** Whether its copy, if it has one, is what it is now. Turns that were forgotten again leave no trace. */
function isFresh({ sequence, copy }: Slot): boolean {
  if (sequence === undefined || copy === undefined) return true;
  // A forgotten question may have brought a token into the cache that was drawn before.
  return sequence.tokens === copy.tokens && sequence.memory.tokensSeen === copy.memory.tokensSeen;
}

function sourceOf({ sequence, copy }: Slot): CacheSource {
  return sequence ?? (copy as HostCache);
}
