import type { IngestProgress, Input } from "./conversation.js";
import type { Addition, Dialogue } from "./dialogue.js";
import { LonghaulError, throwIfAborted } from "./errors.js";
import { type ConversationMemory, type Policy, toConversationMemory } from "./memory.js";
import type { CacheSource, Sequence } from "./sequence.js";
import type { StreamsState } from "./snapshots/state.js";
import type { Message } from "./text/chat-template.js";

/** A token stream and what it says. */
export interface Stream {
  readonly sequence: Sequence;
  readonly dialogue: Dialogue;
  /** Called when the turn is over, however it ended: the stream may have been made for it. */
  readonly finish?: () => Promise<void>;
}

/** A history on its way into a conversation. */
export interface HistoryRequest {
  readonly input: Input;
  /** Writes the history behind what a dialogue holds. */
  readonly write: (dialogue: Dialogue) => Addition;
  readonly signal: AbortSignal;
  readonly onProgress: ((progress: IngestProgress) => void) | undefined;
}

/** Making episodes anew. */
export type RebuildRequest = Pick<HistoryRequest, "signal" | "onProgress">;

/** Looking for the stream of a turn. */
export interface ChoiceRequest extends RebuildRequest {
  /** False for a turn that shall leave no trace. */
  readonly remember: boolean;
  /** One cache, whatever `topEpisodes` says: what is taken in without an answer belongs to one. */
  readonly single?: boolean;
}

/** Streams as they are saved. */
export interface StreamsSnapshot {
  readonly state: StreamsState;
  /** Whose images belong to it, in this order. */
  readonly sequences: readonly CacheSource[];
}

/** The token streams that a conversation is remembered in: one, or one an episode. */
export interface Streams {
  /** The chat messages of the conversation, whichever stream holds them. */
  readonly messages: readonly Message[];
  /** Resolves with the number of the history's tokens; rejects with the signal's reason when it aborted. */
  ingest(request: HistoryRequest): Promise<number>;
  /** The stream that what comes next belongs to. */
  choose(input: Input, request: ChoiceRequest): Promise<Stream>;
  /** A turn is over. Never rejects. */
  settled(): Promise<void>;
  /** Makes episodes anew if the conversation has grown enough for it: whether it did. */
  recluster(request: RebuildRequest): Promise<boolean>;
  memory(): ConversationMemory;
  /** Nothing may change until what it tells of is saved. */
  snapshot(): Promise<StreamsSnapshot>;
  release(): Promise<void>;
}

/** Takes a history in behind what a stream holds. */
export async function ingestInto(
  { sequence, dialogue }: Stream,
  { write, signal, onProgress }: HistoryRequest,
): Promise<number> {
  const addition = write(dialogue);
  const total = addition.ids.length;
  const before = sequence.tokens;
  const report = onProgress && ((tokens: number) => onProgress({ tokens, total }));
  try {
    await sequence.ingest(addition.ids, { signal, onProgress: report });
  } finally {
    const taken = sequence.tokens - before;
    if (taken === total) addition.commit();
    else dialogue.partly(addition.ids.slice(0, taken));
  }
  if (sequence.tokens - before < total) throwIfAborted(signal);
  return total;
}

/** Everything in one stream. */
export class SingleStream implements Streams {
  readonly #stream: Stream;
  readonly #policy: Policy;
  readonly #kvHeads: number;
  readonly #promptTokens: number;

  /** @param promptTokens of the policy's prompt */
  constructor(stream: Stream, policy: Policy, kvHeads: number, promptTokens: number) {
    this.#stream = stream;
    this.#policy = policy;
    this.#kvHeads = kvHeads;
    this.#promptTokens = promptTokens;
  }

  get messages(): readonly Message[] {
    return this.#stream.dialogue.messages;
  }

  ingest(request: HistoryRequest): Promise<number> {
    return ingestInto(this.#stream, request);
  }

  async choose(): Promise<Stream> {
    return this.#stream;
  }

  async settled(): Promise<void> {}

  async recluster(): Promise<boolean> {
    const advice = "only policies with episodes make any";
    throw new LonghaulError("ERR_UNSUPPORTED", `this conversation has no episodes: ${advice}`);
  }

  memory(): ConversationMemory {
    return toConversationMemory(this.#policy, this.#stream.sequence.memory, this.#kvHeads, this.#promptTokens);
  }

  async snapshot(): Promise<StreamsSnapshot> {
    const { sequence, dialogue } = this.#stream;
    return { state: { kind: "single", dialogue: dialogue.state() }, sequences: [sequence] };
  }

  release(): Promise<void> {
    return this.#stream.sequence.release();
  }
}
