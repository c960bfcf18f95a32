import { instructionTurn } from "../instruction.js";
import type { ChatTemplate } from "../text/chat-template.js";
import type { Tokenizer } from "../text/tokenizer.js";
import type { History } from "./history.js";

/** What an episode's windows answer when they follow an instruction. */
export const INSTRUCTION =
  "From the part of our conversation that follows, extract what should be remembered: the people's names and what kind " +
  "of people they are, what happened and on which dates, details, promises and plans, opinions, relationships, feelings, " +
  "and everything they went through that others do not.";

/** Token ids of an episode's patched prompt: the instruction as a user's turn, then its windows as the model's answer. */
export function patchedPrompt(
  windows: readonly string[],
  { separator }: Pick<History, "separator">,
  instruction: string | null,
  { tokenizer, template }: { readonly tokenizer: Tokenizer; readonly template: ChatTemplate },
): number[] {
  if (windows.length === 0) return [];
  const text = windows.join(separator === "\n" ? "\n\n" : " ");
  const ids = tokenizer.encode(text, { addSpecialTokens: false });
  return instruction === null ? ids : [...instructionTurn(instruction, { tokenizer, template }), ...ids];
}
