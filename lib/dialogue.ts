import { invalidOption } from "./errors.js";
import { type LoggedMessage, MessageLog } from "./message-log.js";
import { RenderedHistory } from "./rendered-history.js";
import type { ChatTemplate, Message } from "./text/chat-template.js";
import type { Tokenizer } from "./text/tokenizer.js";

/** Tokens to append to a stream, and what the stream means once they are in it. */
export interface Addition {
  readonly ids: readonly number[];
  /** Whether it was written in the model's chat format. */
  readonly chat: boolean;
  /** All of `ids` are in the stream. */
  commit(): void;
}

/** A dialogue as JSON holds it. */
export interface DialogueState {
  /** Milliseconds since 1970: what templates print as the date. */
  readonly now: number;
  /** What the template is shown. */
  readonly history: readonly Message[];
  /** When it is next tried to show it less. */
  readonly tryAt: number;
  /** Empty for a fork. */
  readonly log: readonly LoggedMessage[];
  readonly generated: string | null;
  readonly unwritten: readonly Message[];
  readonly rest: string;
  readonly begun: boolean;
  readonly recent: readonly number[];
}

/** Who hears what a fork takes in, in the order in which it does. */
export interface Journal {
  /** Messages in the chat format, and what makes the model answer if `answer` is set; `ids` as they are in the fork. */
  turn(messages: readonly Message[], answer: boolean, ids: readonly number[]): void;
  /** Tokens that belong to no message. */
  tokens(ids: readonly number[]): void;
  /** As `Dialogue.answered` takes it. */
  answered(ids: readonly number[], rest: string, chat: boolean): void;
}

/** Enough tokens of a stream for its decoder to know how the next one is written. */
const PREFIX_TOKENS = 16;

/** Characters behind an answer that belong to no message; what a template writes next overlaps with fewer. */
const UNTOLD_CHARACTERS = 65_536;

/**
 * What a token stream says: which messages it holds and how its last turn stands, so that a turn is appended as what
 * the chat template adds. Plain text and token ids may come between; they stay what they are.
 */
export class Dialogue {
  readonly #tokenizer: Tokenizer;
  readonly #template: ChatTemplate;
  /** Templates that print a date print that of the beginning, or earlier text would change. */
  readonly #now: Date;
  #history = new RenderedHistory();
  #log: MessageLog;
  /** A fork's, which has no log of its own. */
  #journal: Journal | undefined;
  /** The stream behind the last generation prompt, while the last message is an answer of the model. */
  #generated: string | undefined;
  /** A system prompt, which templates may want together with the first turn. */
  #unwritten: readonly Message[];
  /** The end of the answer that was shown, where its token said more and was forgotten. */
  #rest = "";
  #begun = false;
  #recent: number[] = [];

  /** @param logTokens the newest messages of so many tokens are kept */
  constructor(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    system: string | undefined,
    logTokens: number,
    now = new Date(),
  ) {
    this.#tokenizer = tokenizer;
    this.#template = template;
    this.#log = new MessageLog(logTokens);
    this.#now = now;
    this.#unwritten = system === undefined ? [] : [{ role: "system", content: system }];
  }

  /** The newest messages of the stream, a system prompt that waits for its first turn included. */
  get messages(): readonly Message[] {
    return [...this.#log.messages, ...this.#unwritten];
  }

  /** What another stream says that holds the same so far, and goes on in its own way. */
  fork(journal: Journal): Dialogue {
    const fork = new Dialogue(this.#tokenizer, this.#template, undefined, 0, this.#now);
    fork.#journal = journal;
    fork.#history = this.#history.copy();
    fork.#generated = this.#generated;
    fork.#unwritten = this.#unwritten;
    fork.#rest = this.#rest;
    fork.#begun = this.#begun;
    fork.#recent = this.#recent;
    return fork;
  }

  /** What `restore` makes the same dialogue of. */
  state(): DialogueState {
    return {
      now: this.#now.getTime(),
      history: this.#history.messages,
      tryAt: this.#history.tryAt,
      log: this.#log.entries,
      generated: this.#generated ?? null,
      unwritten: this.#unwritten,
      rest: this.#rest,
      begun: this.#begun,
      recent: this.#recent,
    };
  }

  /** @param journal of a fork */
  static restore(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    state: DialogueState,
    logTokens: number,
    journal?: Journal,
  ): Dialogue {
    const dialogue = new Dialogue(tokenizer, template, undefined, logTokens, new Date(state.now));
    dialogue.#history = new RenderedHistory(state.history, state.tryAt);
    dialogue.#log = new MessageLog(logTokens, state.log);
    dialogue.#journal = journal;
    dialogue.#generated = state.generated ?? undefined;
    dialogue.#unwritten = [...state.unwritten];
    dialogue.#rest = state.rest;
    dialogue.#begun = state.begun;
    dialogue.#recent = [...state.recent];
    return dialogue;
  }

  get hasTemplate(): boolean {
    return this.#template.available;
  }

  /** The last tokens of the stream once `addition` is in it. */
  prefixBehind(addition: Addition): number[] {
    return [...this.#recent, ...addition.ids].slice(-PREFIX_TOKENS);
  }

  /** `added` in the model's chat format, with what makes it answer if `answer` is set. */
  turn(added: readonly Message[], answer: boolean): Addition {
    const messages = [...this.#unwritten, ...added];
    const text = this.#history.append(this.#template, {
      ...(this.#generated === undefined ? {} : { generated: this.#generated }),
      added: messages,
      addGenerationPrompt: answer,
      now: this.#now,
    });
    const ids = this.#encode(this.#rest + this.#withoutBos(text));
    return {
      ids,
      chat: true,
      commit: () => {
        this.#took(ids);
        this.#history.push(messages);
        if (this.#journal === undefined) this.#log.push(messages, ids.length);
        else this.#journal.turn(added, answer, ids);
        this.#unwritten = [];
        this.#generated = undefined;
      },
    };
  }

  /** The tokens of system messages (those that wait for the first turn before them); undefined if there are none. */
  opening(system: readonly Message[]): readonly number[] | undefined {
    const messages = [...this.#unwritten, ...system];
    if (messages.length === 0 || !this.hasTemplate) return undefined;
    const text = this.#template.wouldAppend({ history: [], added: messages, now: this.#now });
    return text === undefined ? undefined : this.#encode(text);
  }

  /** A text as it is; special tokens are added only where it begins the stream. */
  plain(text: string): Addition {
    if (this.#unwritten.length === 0) {
      return this.tokens(this.#begun ? this.#encode(this.#rest + text) : this.#tokenizer.encode(text));
    }
    // A system prompt cannot wait for a turn that may never come.
    const system = this.turn([], false);
    const ids = this.#tokenizer.encode(text, { addSpecialTokens: false, continuation: true });
    const commit = () => {
      system.commit();
      this.partly(ids);
    };
    return { ids: [...system.ids, ...ids], chat: false, commit };
  }

  /** Token ids as they are. */
  tokens(ids: readonly number[]): Addition {
    return { ids, chat: false, commit: () => this.partly(ids) };
  }

  /** Only these of an addition's ids are in the stream: they are kept as text that belongs to no message. */
  partly(ids: readonly number[]): void {
    if (ids.length === 0) return;
    if (this.#generated !== undefined) this.#untold(this.#textOf(ids));
    this.#journal?.tokens(ids);
    this.#took(ids);
  }

  /** The model answered with `ids`, of which `rest` was shown but is not in the stream. */
  answered(ids: readonly number[], rest: string, chat: boolean): void {
    const text = this.#textOf(ids) + rest;
    if (chat) {
      this.#generated = text;
      const answer = this.#template.answer(this.#history.messages, text, { now: this.#now });
      this.#history.push([answer]);
      if (this.#journal === undefined) this.#log.push([answer], ids.length);
    } else {
      this.#untold(text);
    }
    this.#journal?.answered(ids, rest, chat);
    this.#took(ids);
    this.#rest = rest;
  }

  /** Text behind an answer that no template wrote: only its end can be the beginning of what one writes. */
  #untold(text: string): void {
    if (this.#generated !== undefined) this.#generated = (this.#generated + text).slice(-UNTOLD_CHARACTERS);
  }

  #took(ids: readonly number[]): void {
    if (ids.length > 0) {
      this.#begun = true;
      this.#rest = "";
    }
    this.#recent = [...this.#recent, ...ids].slice(-PREFIX_TOKENS);
  }

  #encode(text: string): number[] {
    return this.#tokenizer.encode(text, { addSpecialTokens: false, continuation: this.#begun });
  }

  /** A template begins with BOS, but a stream that goes on has begun already. */
  #withoutBos(text: string): string {
    const { bos } = this.#tokenizer.named;
    return this.#begun && this.#history.messages.length === 0 && bos && text.startsWith(bos)
      ? text.slice(bos.length)
      : text;
  }

  /** Text of tokens that follow the stream, special tokens included. */
  #textOf(ids: readonly number[]): string {
    const decoder = this.#tokenizer.streamDecoder({ prefix: this.#recent });
    return ids.map((id) => decoder.push(id)).join("") + decoder.flush();
  }
}

/** One message, or several. */
export function requireMessages(option: string, input: Message | readonly Message[]): readonly Message[] {
  const messages = Array.isArray(input) ? (input as readonly Message[]) : [input as Message];
  if (messages.length === 0) throw invalidOption(option, "at least one message, text or token id", input);
  return messages;
}

/** Whether an array holds token ids; an empty one holds nothing, which is an error. */
export function isTokenIds(input: unknown): input is readonly number[] {
  return Array.isArray(input) && input.length > 0 && typeof input[0] === "number";
}
