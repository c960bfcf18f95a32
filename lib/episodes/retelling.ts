import type { Dialogue, Journal } from "../dialogue.js";
import { LonghaulError } from "../errors.js";
import type { Message } from "../text/chat-template.js";
import type { Tokenizer } from "../text/tokenizer.js";
import { historyOfMessages, type Said } from "./history.js";
import type { Transcript } from "./transcript.js";

/** Tells a dialogue what its forks take in, as if all of it had come in one stream, and writes that stream down. */
export class Retelling implements Journal {
  readonly #dialogue: Dialogue;
  readonly #transcript: Transcript;
  readonly #tokenizer: Tokenizer;
  readonly #onSaid: (said: readonly Said[], tokens: number) => void;
  /** Whether the last turn was told in the chat format. */
  #chat = false;

  /** @param onSaid hears what was said, and in how many tokens */
  constructor(
    dialogue: Dialogue,
    transcript: Transcript,
    tokenizer: Tokenizer,
    onSaid: (said: readonly Said[], tokens: number) => void,
  ) {
    this.#dialogue = dialogue;
    this.#transcript = transcript;
    this.#tokenizer = tokenizer;
    this.#onSaid = onSaid;
  }

  turn(messages: readonly Message[], answer: boolean, ids: readonly number[]): void {
    const { utterances } = historyOfMessages(messages);
    this.#chat = true;
    try {
      const addition = this.#dialogue.turn(messages, answer);
      addition.commit();
      this.#write(addition.ids, utterances);
    } catch (error) {
      // A template may take them behind the turns of one episode and refuse them behind those of all.
      if (!(error instanceof LonghaulError)) throw error;
      this.#chat = false;
      this.#dialogue.partly(ids);
      this.#write(ids, utterances);
    }
  }

  tokens(ids: readonly number[]): void {
    this.#dialogue.partly(ids);
    this.#write(ids, [{ text: this.#textOf(ids) }]);
  }

  answered(ids: readonly number[], rest: string, chat: boolean): void {
    this.#dialogue.answered(ids, rest, chat && this.#chat);
    const text = this.#textOf(ids) + rest;
    this.#write(ids, [chat ? { speaker: "Assistant", text } : { text }]);
  }

  #write(ids: readonly number[], said: readonly Said[]): void {
    const { named } = this.#transcript;
    const kept = said
      .map(({ speaker, text }) => ({ ...(named && speaker ? { speaker } : {}), text: text.trim() }))
      .filter(({ text }) => text !== "");
    this.#transcript.push(ids, kept);
    this.#onSaid(kept, ids.length);
  }

  #textOf(ids: readonly number[]): string {
    return this.#tokenizer.decode(ids, { skipSpecialTokens: true });
  }
}
