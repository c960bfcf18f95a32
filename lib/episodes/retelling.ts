import type { Dialogue, Journal } from "../dialogue.js";
import { LonghaulError } from "../errors.js";
import type { Message } from "../text/chat-template.js";

/** Tells a dialogue what its forks take in, as if all of it had come in one stream. */
export class Retelling implements Journal {
  readonly #dialogue: Dialogue;
  /** Whether the last turn was told in the chat format. */
  #chat = false;

  constructor(dialogue: Dialogue) {
    this.#dialogue = dialogue;
  }

  turn(messages: readonly Message[], answer: boolean, ids: readonly number[]): void {
    this.#chat = true;
    try {
      this.#dialogue.turn(messages, answer).commit();
    } catch (error) {
      // A template may take them behind the turns of one episode and refuse them behind those of all.
      if (!(error instanceof LonghaulError)) throw error;
      this.#chat = false;
      this.#dialogue.partly(ids);
    }
  }

  tokens(ids: readonly number[]): void {
    this.#dialogue.partly(ids);
  }

  answered(ids: readonly number[], rest: string, chat: boolean): void {
    this.#dialogue.answered(ids, rest, chat && this.#chat);
  }
}
