import { appendFile } from "node:fs/promises";
import { LonghaulError } from "../errors.js";
import { divided } from "../message-log.js";
import type { History, Said } from "./history.js";

/** A part of the stream: its tokens and what they say, if anything. */
export interface Passage {
  readonly ids: Int32Array;
  readonly said: Said | null;
}

/** A transcript as JSON holds it. */
export interface TranscriptState {
  readonly separator: History["separator"];
  /** Whether its utterances tell who spoke. */
  readonly named: boolean;
  /** Whether its beginning was let go. */
  readonly cut: boolean;
  readonly passages: readonly Passage[];
}

/** The newest tokens of a conversation and what was said in them: what new episodes are made of. */
export class Transcript {
  readonly maxTokens: number;
  /** Where older text goes; null: nowhere. */
  readonly #file: string | null;
  readonly #separator: History["separator"];
  readonly named: boolean;
  #cut: boolean;
  #passages: Passage[];
  #tokens = 0;
  #bytes = 0;

  constructor(maxTokens: number, file: string | null, state: TranscriptState) {
    this.maxTokens = maxTokens;
    this.#file = file;
    this.#separator = state.separator;
    this.named = state.named;
    this.#cut = state.cut;
    this.#passages = [...state.passages];
    for (const passage of state.passages) this.#count(passage, 1);
  }

  get tokens(): number {
    return this.#tokens;
  }

  /** Of token ids (4 each) and of what was said (UTF-8). */
  get bytes(): number {
    return this.#bytes;
  }

  /** Whether its beginning was let go. */
  get cut(): boolean {
    return this.#cut;
  }

  get ids(): number[] {
    return this.#passages.flatMap(({ ids }) => [...ids]);
  }

  get history(): History {
    const utterances = this.#passages.flatMap(({ said }) => (said === null ? [] : [said]));
    return { utterances, separator: this.#separator };
  }

  get state(): TranscriptState {
    return { separator: this.#separator, named: this.named, cut: this.#cut, passages: this.#passages };
  }

  /** Tokens, and what they say: each utterance gets a share of the tokens in proportion to its length. */
  push(ids: readonly number[], said: readonly Said[]): void {
    const parts = said.length === 0 ? [null] : said;
    const weights = parts.map((part) => part?.text.length ?? 1);
    let begin = 0;
    for (const [index, share] of divided(ids.length, weights).entries()) {
      const passage = {
        ids: Int32Array.from(ids.slice(begin, begin + share)),
        said: parts[index] ?? null,
      };
      begin += share;
      this.#passages.push(passage);
      this.#count(passage, 1);
    }
    if (this.#file === null) this.#drop(this.#surplus());
  }

  /** Appends what is beyond `maxTokens` to the file, if there is one, a JSON object a line, and then lets go of it. */
  async flush(): Promise<void> {
    const surplus = this.#surplus();
    if (this.#file === null || surplus === 0) return;
    const lines = this.#passages.slice(0, surplus).flatMap(({ said }) => (said === null ? [] : [said]));
    try {
      await appendFile(this.#file, lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
    } catch (error) {
      const advice = "make room for it or let it be written; nothing was lost, and the call can be made again";
      throw new LonghaulError(
        "ERR_INVALID_ARGUMENT",
        `memory.transcript.file: ${this.#file} cannot be written (${(error as Error).message}); ${advice}`,
        { cause: error },
      );
    }
    this.#drop(surplus);
  }

  /** How many of the oldest passages are beyond the limit. */
  #surplus(): number {
    let left = this.#tokens;
    let count = 0;
    while (left > this.maxTokens) left -= (this.#passages[count++] as Passage).ids.length;
    return count;
  }

  #drop(count: number): void {
    if (count === 0) return;
    for (const passage of this.#passages.slice(0, count)) this.#count(passage, -1);
    this.#passages = this.#passages.slice(count);
    this.#cut = true;
  }

  #count({ ids, said }: Passage, times: 1 | -1): void {
    this.#tokens += times * ids.length;
    const text = said === null ? "" : said.text + (said.speaker ?? "");
    this.#bytes += times * (ids.byteLength + Buffer.byteLength(text));
  }
}
