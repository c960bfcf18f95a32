import { type Answer, type AnswerFeed, AnswerStream } from "./answer.js";
import { type Addition, type Dialogue, isTokenIds, requireMessages } from "./dialogue.js";
import { invalidOption, LonghaulError, requireInteger, requireString, throwIfAborted } from "./errors.js";
import { type GenerateOptions, type GenerationDefaults, toDrawing } from "./generation.js";
import type { ConversationMemory, Policy } from "./memory.js";
import type { NativeModel } from "./native.js";
import { OperationQueue, type Turn } from "./queue.js";
import { respond } from "./respond.js";
import type { Sequence } from "./sequence.js";
import { saveStreams } from "./snapshots/save.js";
import type { Streams } from "./streams.js";
import type { Message } from "./text/chat-template.js";
import type { Tokenizer } from "./text/tokenizer.js";

/** How far an ingest has come. */
export interface IngestProgress {
  /** Tokens that have gone through the model. Policy "epicache" takes the history in once an episode, or once if shared. */
  readonly tokens: number;
  readonly total: number;
  /** The episode that is being made, from 0; policy "epicache" only, when it makes one after the other. */
  readonly episode?: number;
}

export interface IngestOptions {
  /** Called after every block. */
  readonly onProgress?: (progress: IngestProgress) => void;
  /** Aborts the call, which then rejects with the signal's reason. Blocks that were told of stay. */
  readonly signal?: AbortSignal;
}

export interface AskOptions extends GenerateOptions {
  /**
   * False: question and answer are forgotten afterwards, so that the next one finds the conversation as this one did.
   * They must fit what is free of the memory's `tail`. Default true.
   */
  readonly remember?: boolean;
  /** Called after every block, when episodes are made anew before the answer. */
  readonly onProgress?: (progress: IngestProgress) => void;
}

export type ReclusterOptions = IngestOptions;

export interface SaveOptions {
  /** Aborts the call, which then rejects with the signal's reason and leaves the file as it was. */
  readonly signal?: AbortSignal;
}

/** Text, chat messages, or token ids. */
export type Input = string | Message | readonly Message[] | readonly number[];

/** What a conversation needs of its engine. */
export interface ConversationContext {
  readonly streams: Streams;
  readonly tokenizer: Tokenizer;
  readonly model: NativeModel;
  readonly defaults: GenerationDefaults;
  readonly policy: Policy;
  readonly tail: number;
  /** Whether it goes through an adapter. */
  readonly adapted: boolean;
  /** Tells the model from others. */
  readonly fingerprint: () => Promise<string>;
  /** Aborts when the engine is disposed of. */
  readonly engineClosing: AbortSignal;
  readonly onDispose: (conversation: Conversation) => void;
}

const DEFAULT_MAX_TOKENS = 256;

/**
 * A token stream with a memory of its own. Calls on one conversation run one after the other, in the order in which
 * they were made; a call that fails or is aborted leaves it usable.
 */
export class Conversation {
  readonly #context: ConversationContext;
  readonly #queue = new OperationQueue();
  readonly #closing = new AbortController();
  #disposal: Promise<void> | undefined;

  /** @internal Made by `Engine.conversation`. */
  constructor(context: ConversationContext) {
    this.#context = context;
  }

  /**
   * The chat messages so far; of a conversation longer than the model's window the newest, as many as the window holds
   * (with policy "epicache", as many as its transcript holds).
   * Plain text and token ids are not among them.
   */
  get messages(): readonly Message[] {
    return this.#context.streams.messages;
  }

  /**
   * Takes in a history without answering: messages in the model's chat format, a text as it is, or token ids. Under a
   * bounded memory it goes through the model block by block, and each block is evicted down to the budget.
   *
   * When it is aborted, the blocks that were told to `onProgress` stay in the conversation as text that belongs to no
   * message: `memory().tokensSeen` tells how many tokens they are. Policy "epicache" makes its episodes of the first
   * history, whole: of an aborted one nothing stays. What comes later goes to the episode that it is like.
   */
  async ingest(input: Input, { onProgress, signal }: IngestOptions = {}): Promise<{ tokens: number }> {
    return this.#enqueue(signal, async (combined) => {
      const write = (dialogue: Dialogue) => {
        const plain = typeof input === "string";
        const addition = plain ? this.#plain(dialogue, input) : this.#addition(dialogue, input, false);
        if (addition.ids.length > 0) return addition;
        throw invalidOption("input", "a text, messages or token ids that are not empty", input);
      };
      const request = { input, write, signal: combined, onProgress };
      return { tokens: await this.#context.streams.ingest(request) };
    });
  }

  /**
   * Asks, and streams the answer: `for await (const chunk of conversation.ask("..."))`, or `await
   * conversation.ask("...").result()`. A text is the user's next message; for a model without a chat template, and for
   * token ids, the model goes on right behind them.
   *
   * Leaving the loop early ends the generation, and what was not read is forgotten. (A tail that filled up and was
   * evicted in the meantime keeps what it took in. The same holds once another call waits: it builds on the whole answer.)
   */
  ask(input: Input, options: AskOptions = {}): AnswerStream {
    return new AnswerStream((feed) => this.answer(input, options, feed));
  }

  /** @internal `ask` for a feed that somebody else reads. */
  async answer(input: Input, options: AskOptions, feed: AnswerFeed, plain = false): Promise<Answer> {
    const drawing = toDrawing(options, this.#context.defaults);
    const { remember = true } = options;
    if (typeof remember !== "boolean") throw invalidOption("remember", "true or false", remember);
    return this.#enqueue(options.signal, async (signal, turn) => {
      const { streams, tokenizer } = this.#context;
      const { sequence, dialogue, finish } = await streams.choose(input, {
        remember,
        signal,
        onProgress: options.onProgress,
      });
      try {
        const addition =
          plain && typeof input === "string"
            ? this.#plain(dialogue, input)
            : this.#addition(dialogue, input, true);
        if (addition.ids.length === 0 && sequence.tokens === 0) {
          throw invalidOption("prompt", "a text, messages or token ids that are not empty", input);
        }
        const room = this.#room(sequence, addition.ids.length, remember);
        const request = {
          sequence,
          dialogue,
          tokenizer,
          addition,
          drawing,
          room,
          remember,
          feed,
          turn,
          signal,
        };
        return await respond(request);
      } finally {
        await finish?.();
        await streams.settled();
      }
    });
  }

  /**
   * Makes the episodes anew of the transcript, if the conversation has twice as many windows as they were made of; the next
   * `ask` or `ingest` would do it first. Resolves with whether it did. When it is aborted or fails, the episodes are as
   * they were.
   */
  async recluster({ onProgress, signal }: ReclusterOptions = {}): Promise<boolean> {
    return this.#enqueue(signal, (combined) =>
      this.#context.streams.recluster({ signal: combined, onProgress }),
    );
  }

  /**
   * Saves the conversation in a file, for `engine.restore`: the rows that it keeps, its messages and its options. The file
   * is replaced as a whole or not at all, also when the process or the machine fails in the middle. Resolves with its
   * bytes.
   */
  async save(path: string, { signal }: SaveOptions = {}): Promise<{ bytes: number }> {
    requireString("path", path);
    if (this.#context.adapted) {
      // Restored without it, the conversation would go on as another one.
      throw new LonghaulError(
        "ERR_UNSUPPORTED",
        "a conversation with an adapter cannot be saved; keep its text",
      );
    }
    return this.#enqueue(signal, async (combined) => {
      const { streams, model, fingerprint } = this.#context;
      return { bytes: await saveStreams(path, streams, { model, fingerprint }, combined) };
    });
  }

  /** Rows and bytes, as of the last step. */
  memory(): ConversationMemory {
    this.#requireAlive();
    return this.#context.streams.memory();
  }

  /** Ends what runs, rejects what waits with ERR_DISPOSED, and gives the memory back. */
  dispose(): Promise<void> {
    this.#disposal ??= this.#close();
    return this.#disposal;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  async #close(): Promise<void> {
    this.#closing.abort(new LonghaulError("ERR_DISPOSED", "the conversation was disposed of"));
    await this.#queue.idle();
    await this.#context.streams.release();
    this.#context.onDispose(this);
  }

  #requireAlive(): void {
    throwIfAborted(this.#context.engineClosing);
    throwIfAborted(this.#closing.signal);
  }

  async #enqueue<T>(
    signal: AbortSignal | undefined,
    operation: (signal: AbortSignal, turn: Turn) => Promise<T>,
  ): Promise<T> {
    this.#requireAlive();
    throwIfAborted(signal);
    const signals = [this.#context.engineClosing, this.#closing.signal];
    const combined = AbortSignal.any(signal === undefined ? signals : [...signals, signal]);
    return this.#queue.run((turn) => operation(combined, turn), combined);
  }

  #plain(dialogue: Dialogue, text: string): Addition {
    if (text === "") throw invalidOption("input", "a text that is not empty", text);
    return dialogue.plain(text);
  }

  #addition(dialogue: Dialogue, input: Input, answer: boolean): Addition {
    if (isTokenIds(input)) return dialogue.tokens(requireTokenIds("tokens", input, this.#context.model));
    if (typeof input !== "string") return dialogue.turn(requireMessages("input", input as Message[]), answer);
    if (!dialogue.hasTemplate) return this.#plain(dialogue, input);
    if (input === "") throw invalidOption("input", "a text that is not empty", input);
    return dialogue.turn([{ role: "user", content: input }], answer);
  }

  /** How many tokens may be drawn when the caller does not say: an answer to forget must fit the tail. */
  #room(sequence: Sequence, added: number, remember: boolean): number {
    const { policy, tail } = this.#context;
    if (remember || policy === "full") return DEFAULT_MAX_TOKENS;
    // The token drawn last takes no row.
    return Math.max(1, Math.min(DEFAULT_MAX_TOKENS, tail - sequence.forgettable - added + 1));
  }
}

/** Checks token ids against the model's vocabulary. */
export function requireTokenIds(
  option: string,
  ids: readonly number[] | Int32Array,
  model: NativeModel,
): readonly number[] {
  const checked = Array.from(ids);
  for (const [index, id] of checked.entries()) {
    requireInteger(`${option}[${index}]`, id, 0, model.vocabularySize - 1);
  }
  return checked;
}
