import type { Chunk } from "./answer-text.js";
import { LonghaulError } from "./errors.js";

/** A whole answer. */
export interface Answer {
  readonly text: string;
  /** The ids of the tokens that `text` is made of; a stop token is not among them. */
  readonly tokens: readonly number[];
  /** "stop": the model or a stop string ended it. "length": `maxTokens` did. "abort": its reader broke off. */
  readonly finishReason: "stop" | "length" | "abort";
  readonly usage: {
    /** Tokens that this call put into the stream before the answer. */
    readonly promptTokens: number;
    /** Tokens of the answer, a stop token counted. */
    readonly completionTokens: number;
  };
  readonly timing: {
    /** From the start of the work to the first token; undefined when there was none. */
    readonly firstTokenMs: number | undefined;
    readonly totalMs: number;
  };
}

/** Between the one who generates an answer and the one who reads it, at a pace of their own. */
export class AnswerFeed {
  readonly #chunks: Chunk[] = [];
  /** Chunks that the reader has got, or has asked for. */
  #seen = 0;
  /** Chunks that the iterator has handed out. */
  #read = 0;
  /** Whether the reader broke off. */
  closed = false;
  #ended = false;
  #halted = false;
  #takesAll = false;
  #wake: (() => void) | undefined;
  #settle: () => void = () => {};
  #onClose: (() => void) | undefined;
  /** Resolves when the answer has ended and the reader has got all of it, and when the reader breaks off. */
  readonly settled = new Promise<void>((resolve) => {
    this.#settle = resolve;
  });

  // ---- the one who generates ----

  push(chunk: Chunk): void {
    if (this.#halted) return;
    this.#chunks.push(chunk);
    if (this.#takesAll) this.#seen = this.#chunks.length;
    this.#wake?.();
  }

  /** No chunk comes any more. */
  end(): void {
    this.#ended = true;
    if (this.#takesAll) this.#settle();
    this.#wake?.();
  }

  get complete(): boolean {
    return this.#ended && this.#seen === this.#chunks.length;
  }

  /** Takes back what the reader has not got; nothing comes any more. Returns the length of the text that it has. */
  cut(): number {
    this.#halted = true;
    this.#chunks.length = this.#seen;
    return this.#chunks.reduce((length, chunk) => length + chunk.text.length, 0);
  }

  onClose(callback: () => void): void {
    this.#onClose = callback;
    if (this.closed) callback();
  }

  // ---- the one who reads ----

  /** The next chunk, or undefined when there is none any more. */
  async next(): Promise<Chunk | undefined> {
    for (;;) {
      const chunk = this.#chunks[this.#read];
      if (chunk !== undefined) {
        this.#read++;
        this.#seen = Math.max(this.#seen, this.#read);
        return chunk;
      }
      if (this.#ended || this.closed) {
        this.#settle();
        return undefined;
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  /** Counts everything as read. */
  takeAll(): void {
    this.#takesAll = true;
    this.#seen = this.#chunks.length;
    if (this.#ended) this.#settle();
  }

  close(): void {
    if (this.closed || this.#takesAll) return;
    this.closed = true;
    this.#settle();
    this.#wake?.();
    this.#onClose?.();
  }
}

/**
 * An answer on its way. Nothing happens until it is iterated or `result()` is called. Leaving the loop early ends the
 * generation, and the conversation goes on as if what was not read had never been generated.
 */
export class AnswerStream implements AsyncIterable<Chunk> {
  readonly #generate: (feed: AnswerFeed) => Promise<Answer>;
  readonly #feed = new AnswerFeed();
  #answer: Promise<Answer> | undefined;
  #iterated = false;

  constructor(generate: (feed: AnswerFeed) => Promise<Answer>) {
    this.#generate = generate;
  }

  /** The whole answer. Starts the generation, if nothing has, and reads all of it. */
  result(): Promise<Answer> {
    this.#feed.takeAll();
    return this.#start();
  }

  [Symbol.asyncIterator](): AsyncIterator<Chunk, undefined> {
    if (this.#iterated) {
      throw new LonghaulError("ERR_INVALID_ARGUMENT", "an answer can be iterated only once; keep its chunks");
    }
    this.#iterated = true;
    return {
      next: async () => {
        const answer = this.#start();
        const chunk = await this.#feed.next();
        if (chunk !== undefined) return { done: false, value: chunk };
        await answer;
        return { done: true, value: undefined };
      },
      return: async () => {
        this.#feed.close();
        await this.#answer;
        return { done: true, value: undefined };
      },
    };
  }

  #start(): Promise<Answer> {
    if (this.#answer === undefined) {
      this.#answer = this.#generate(this.#feed).finally(() => this.#feed.end());
      // A reader that has gone does not hear of a failure; whoever asks for the result does.
      this.#answer.catch(() => {});
    }
    return this.#answer;
  }
}
