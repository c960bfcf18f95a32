import type { StreamDecoder } from "./text/tokenizer.js";

/** A piece of an answer. */
export interface Chunk {
  readonly text: string;
  /** The ids of the tokens whose text is complete with this chunk. */
  readonly tokens: readonly number[];
}

/**
 * The text of an answer as its tokens come: looks for stop strings across the borders of tokens, holds text back that
 * could be the beginning of one, and knows which tokens a length of text is made of.
 */
export class AnswerText {
  /** Whether a stop string was found: the text ends before it. */
  stopped = false;
  readonly #decoder: StreamDecoder;
  readonly #stops: readonly string[];
  readonly #skipsSpace: boolean;
  readonly #isMark: (id: number) => boolean;
  #text = "";
  /** Where the visible text begins: behind the space that a chat format has before an answer. */
  #begin = 0;
  #released = 0;
  readonly #ids: number[] = [];
  /** Length of the text before each token. */
  readonly #starts: number[] = [];
  /** Length of the text up to and with each token. Shorter than #ids while a character is not complete. */
  readonly #ends: number[] = [];
  #listed = 0;

  /**
   * @param isMark whether a token has no text of its own
   * @param skipsSpace whether white space before the first word is left out of the text
   */
  constructor(
    decoder: StreamDecoder,
    stops: readonly string[],
    isMark: (id: number) => boolean,
    skipsSpace: boolean,
  ) {
    this.#decoder = decoder;
    this.#stops = stops;
    this.#isMark = isMark;
    this.#skipsSpace = skipsSpace;
  }

  /** The text so far, without what a stop string cut off. */
  get text(): string {
    return this.#text.slice(this.#begin);
  }

  /** The tokens so far, without one that ended the answer. */
  get tokens(): readonly number[] {
    return this.#ids;
  }

  /** Adds a token. Returns the text that is certain now, if there is any. */
  push(id: number): Chunk | undefined {
    const piece = this.#decoder.push(id);
    this.#ids.push(id);
    this.#starts.push(this.#text.length);
    this.#append(piece, piece !== "" || this.#isMark(id));
    return this.#release(this.#text.length - this.#heldBack());
  }

  /** The answer has ended: gives out what was held back. */
  finish(): Chunk | undefined {
    if (this.stopped) return undefined;
    this.#append(this.#decoder.flush(), true);
    return this.#release(this.#text.length);
  }

  /** The first `length` characters of the visible text as tokens, and the part that the token behind them begins with. */
  split(length: number): { tokens: number[]; rest: string } {
    const end = this.#begin + length;
    const count = length === 0 ? 0 : this.#tokensUpTo(end);
    const start = count === 0 ? 0 : (this.#ends[count - 1] as number);
    return { tokens: this.#ids.slice(0, count), rest: length === 0 ? "" : this.#text.slice(start, end) };
  }

  #append(piece: string, complete: boolean): void {
    const searchFrom = this.#text.length - Math.max(0, ...this.#stops.map((stop) => stop.length - 1));
    this.#text += piece;
    if (complete) while (this.#ends.length < this.#ids.length) this.#ends.push(this.#text.length);
    if (this.#skipsSpace && this.text.trimStart() !== this.text && this.#released === 0) {
      this.#begin += this.text.length - this.text.trimStart().length;
    }
    const from = Math.max(this.#begin, searchFrom);
    const found = this.#stops.map((stop) => this.#text.indexOf(stop, from)).filter((index) => index >= 0);
    if (found.length === 0) return;
    this.stopped = true;
    this.#text = this.#text.slice(0, Math.min(...found));
  }

  /** The length of the longest end of the text that a stop string begins with. */
  #heldBack(): number {
    if (this.stopped) return 0;
    let held = 0;
    for (const stop of this.#stops) {
      for (let length = Math.min(stop.length - 1, this.text.length); length > held; length--) {
        if (this.text.endsWith(stop.slice(0, length))) held = length;
      }
    }
    return held;
  }

  #release(end: number): Chunk | undefined {
    if (end <= Math.max(this.#released, this.#begin)) return undefined;
    const text = this.#text.slice(Math.max(this.#released, this.#begin), end);
    this.#released = end;
    const first = this.#listed;
    this.#listed = Math.max(first, this.#tokensUpTo(end));
    return { text, tokens: this.#ids.slice(first, this.#listed) };
  }

  /** How many tokens the text is made of up to `end`. Tokens without text belong to what follows them. */
  #tokensUpTo(end: number): number {
    let count = this.#ends.findIndex((tokenEnd) => tokenEnd > end);
    if (count < 0) count = this.#ends.length;
    while (count > 0 && this.#starts[count - 1] === this.#ends[count - 1]) count--;
    return count;
  }
}
