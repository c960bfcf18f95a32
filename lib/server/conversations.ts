import { randomUUID } from "node:crypto";
import type { Conversation } from "../conversation.js";
import type { Engine } from "../engine.js";
import { LonghaulError } from "../errors.js";
import type { MemoryOptions } from "../memory.js";
import type { Message } from "../text/chat-template.js";
import { ApiError } from "./errors.js";

interface Kept {
  readonly conversation: Conversation;
  /** What clients sent and were told: the model's own words may end with tokens that no client sees. */
  readonly transcript: Message[];
  busy: boolean;
}

/** A conversation for one request. */
export interface Opened {
  readonly id: string;
  readonly conversation: Conversation;
  /** The messages that it does not know yet. */
  readonly added: readonly Message[];
  /**
   * Ends the request: `told` is the whole answer that the client has. Without it the conversation is not gone on with,
   * for it may hold what the client does not know of; the next request takes its transcript in again.
   */
  release(told: string | undefined): Promise<void>;
}

/**
 * Conversations that go on from request to request, by their id. A client sends the whole transcript each time, as
 * OpenAI's protocol wants it: where that begins with what the conversation has heard, only the rest goes through the
 * model; where it does not, a new conversation takes it in, with an id of its own if that one is taken.
 */
export class ConversationStore {
  readonly #engine: Engine;
  readonly #memory: MemoryOptions;
  readonly #most: number;
  /** The one that was used last is the last. */
  readonly #kept = new Map<string, Kept>();

  constructor(engine: Engine, memory: MemoryOptions, most: number) {
    this.#engine = engine;
    this.#memory = memory;
    this.#most = most;
  }

  get size(): number {
    return this.#kept.size;
  }

  async open(id: string, messages: readonly Message[], signal: AbortSignal): Promise<Opened> {
    const known = this.#kept.get(id);
    if (known?.busy) {
      throw new ApiError(409, `conversation ${id} is answering another request: wait for its end`, {
        code: "conversation_busy",
        param: "conversation_id",
      });
    }
    const added = known === undefined ? undefined : beyond(known.transcript, messages);
    if (known !== undefined && added !== undefined) {
      known.busy = true;
      this.#touch(id, known);
      return this.#opened(id, known, added);
    }
    const fresh = { conversation: await this.#create(signal), transcript: [], busy: true };
    // Another request may have taken the id in the meantime.
    const own = this.#kept.has(id) ? randomUUID() : id;
    this.#kept.set(own, fresh);
    await this.#trim();
    return this.#opened(own, fresh, messages);
  }

  async clear(): Promise<void> {
    const all = [...this.#kept.values()];
    this.#kept.clear();
    await Promise.all(all.map(({ conversation }) => conversation.dispose()));
  }

  #opened(id: string, kept: Kept, added: readonly Message[]): Opened {
    const release = async (told: string | undefined) => {
      kept.busy = false;
      if (told === undefined) {
        if (this.#kept.get(id) === kept) this.#kept.delete(id);
        await kept.conversation.dispose();
        return;
      }
      kept.transcript.push(...added, { role: "assistant", content: told });
      await this.#trim();
    };
    return { id, conversation: kept.conversation, added, release };
  }

  #touch(id: string, kept: Kept): void {
    this.#kept.delete(id);
    this.#kept.set(id, kept);
  }

  /** Where the pool is full, conversations that nobody uses make room for `work`, the longest unused first. */
  async withRoom<T>(work: () => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await work();
      } catch (error) {
        const full = error instanceof LonghaulError && error.code === "ERR_OUT_OF_MEMORY";
        if (!full || !(await this.#dropOldest())) throw error;
      }
    }
  }

  #create(signal: AbortSignal): Promise<Conversation> {
    return this.withRoom(() => this.#engine.conversation({ memory: this.#memory, signal }));
  }

  async #trim(): Promise<void> {
    while (this.#kept.size > this.#most && (await this.#dropOldest()));
  }

  async #dropOldest(): Promise<boolean> {
    for (const [id, { conversation, busy }] of this.#kept) {
      if (busy) continue;
      this.#kept.delete(id);
      await conversation.dispose();
      return true;
    }
    return false;
  }
}

/** The messages behind those that are known already; undefined where the known ones are not their beginning. */
function beyond(known: readonly Message[], messages: readonly Message[]): readonly Message[] | undefined {
  if (messages.length <= known.length) return undefined;
  const same = known.every(({ role, content, name }, index) => {
    const other = messages[index] as Message;
    // Templates trim an answer, and clients may.
    return role === other.role && content.trim() === other.content.trim() && name === other.name;
  });
  return same ? messages.slice(known.length) : undefined;
}
