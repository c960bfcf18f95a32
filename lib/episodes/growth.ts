import type { Dialogue } from "../dialogue.js";
import type { Tokenizer } from "../text/tokenizer.js";
import { type Said, sentences } from "./history.js";
import type { EpisodeSettings } from "./options.js";
import { Retelling } from "./retelling.js";
import { Transcript, type TranscriptState } from "./transcript.js";
import type { WindowSettings } from "./windows.js";

/** What has become of a history since its episodes were made, as JSON holds it. */
export interface GrowthState {
  readonly transcript: TranscriptState;
  /** What stands in front of a transcript whose beginning was let go: BOS, the system prompt. */
  readonly opening: readonly number[];
  /** Units of windows (utterances, sentences, tokens) that came since. */
  readonly units: number;
  /** How often the episodes were made anew. */
  readonly rebuilds: number;
}

/** Follows a conversation beyond the history of its episodes, so that they can be made anew. */
export class Growth {
  readonly transcript: Transcript;
  readonly retelling: Retelling;
  readonly #windows: WindowSettings;
  readonly #opening: readonly number[];
  #units: number;
  #rebuilds: number;

  /** @param dialogue what all episodes' streams were forked from */
  constructor(
    dialogue: Dialogue,
    tokenizer: Tokenizer,
    { transcript, windows }: EpisodeSettings,
    maxTokens: number,
    { opening, units, rebuilds, transcript: saved }: GrowthState,
  ) {
    this.#windows = windows;
    this.#opening = opening;
    this.#units = units;
    this.#rebuilds = rebuilds;
    this.transcript = new Transcript(maxTokens, transcript.file, saved);
    this.retelling = new Retelling(dialogue, this.transcript, tokenizer, (said, tokens) => {
      this.#units += unitsOf(said, tokens, windows);
    });
  }

  get rebuilds(): number {
    return this.#rebuilds;
  }

  /** Windows that came since the episodes were made. */
  get windows(): number {
    return Math.floor(this.#units / this.#windows.size);
  }

  /** The stream that new episodes are made of. */
  get ids(): number[] {
    const { cut, ids } = this.transcript;
    return cut ? [...this.#opening, ...ids] : ids;
  }

  /** Episodes were made of it. */
  rebuilt(): void {
    this.#units = 0;
    this.#rebuilds++;
  }

  get state(): GrowthState {
    const { state: transcript } = this.transcript;
    return { transcript, opening: this.#opening, units: this.#units, rebuilds: this.#rebuilds };
  }
}

function unitsOf(said: readonly Said[], tokens: number, { by }: WindowSettings): number {
  if (by === "tokens") return tokens;
  if (by === "utterances") return said.length;
  return said.reduce((sum, { text }) => sum + sentences(text).length, 0);
}
