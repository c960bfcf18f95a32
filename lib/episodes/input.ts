import type { Input } from "../conversation.js";
import { type Dialogue, isTokenIds, requireMessages } from "../dialogue.js";
import type { Message } from "../text/chat-template.js";
import type { Tokenizer } from "../text/tokenizer.js";
import { type History, historyOfMessages, historyOfText } from "./history.js";
import type { EpisodeSettings } from "./options.js";

/** What was said in a history, whatever form it has. */
export function historyOf(input: Input, { split }: EpisodeSettings, tokenizer: Tokenizer): History {
  if (typeof input === "string") return historyOfText(input, split);
  if (isTokenIds(input)) return historyOfText(tokenizer.decode(input, { skipSpecialTokens: true }), split);
  return historyOfMessages(requireMessages("input", input as Message[]));
}

/** What a question says, without the turns around it. */
export function questionOf(input: Input, tokenizer: Tokenizer): string {
  if (typeof input === "string") return input;
  if (isTokenIds(input)) return tokenizer.decode(input, { skipSpecialTokens: true });
  return requireMessages("input", input as Message[]).at(-1)?.content ?? "";
}

/**
 * What has to stand in front of any later part of a stream that begins with a history: its system prompt, or BOS.
 *
 * @param ids of the history
 * @param dialogue of the stream before it
 */
export function openingOf(
  input: Input,
  ids: readonly number[],
  dialogue: Dialogue,
  tokenizer: Tokenizer,
): readonly number[] {
  const isText = typeof input === "string" || isTokenIds(input);
  const messages = isText ? [] : requireMessages("input", input as Message[]);
  const spoken = messages.findIndex(({ role }) => role !== "system");
  const system = dialogue.opening(messages.slice(0, Math.max(0, spoken)));
  if (system !== undefined) return system;
  return ids.length > 0 && ids[0] === tokenizer.bosTokenId ? ids.slice(0, 1) : [];
}
