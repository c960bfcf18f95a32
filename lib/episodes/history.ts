import type { Message } from "../text/chat-template.js";

/** One thing that was said. */
export interface Said {
  /** Absent in a plain text, which names its speakers as it likes. */
  readonly speaker?: string;
  readonly text: string;
}

/** A history as things that were said one after the other. */
export interface History {
  readonly utterances: readonly Said[];
  /** What separates lines where the history has any: prompts made of its parts look like it. */
  readonly separator: "\n" | " ";
}

/** Every message is an utterance. */
export function historyOfMessages(messages: readonly Message[]): History {
  const utterances = messages.map(({ role, name, content }) => ({
    speaker: name ?? role.charAt(0).toUpperCase() + role.slice(1),
    text: content,
  }));
  return { utterances, separator: "\n" };
}

/** Every line of a text is an utterance; in a text of a single line every sentence is. `split` may know better. */
export function historyOfText(text: string, split?: (text: string) => readonly string[]): History {
  const separator = text.trim().includes("\n") ? "\n" : " ";
  const parts = split?.(text) ?? (separator === "\n" ? text.split("\n") : sentences(text));
  const utterances = parts.map((part) => ({ text: part.trim() })).filter((said) => said.text !== "");
  return { utterances, separator };
}

/** Cuts behind marks that end a sentence, in scripts with spaces and without. */
export function sentences(text: string): string[] {
  const parts = text.split(/(?<=[.!?…]["'”’)\]]*)\s+|(?<=[。！？])/u);
  return parts.map((part) => part.trim()).filter((part) => part !== "");
}

/** As EpiCache's code writes it, so that a window of messages tells who spoke. */
export function written({ speaker, text }: Said): string {
  return speaker === undefined ? text : `${speaker} said, "${text}"`;
}
