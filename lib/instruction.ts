import type { ChatTemplate } from "./text/chat-template.js";
import type { Tokenizer } from "./text/tokenizer.js";

/** Any exchange: the text of a turn behind it has no beginning of a stream in it. */
const BEFORE = [
  { role: "user", content: "Hello." },
  { role: "assistant", content: "Hello." },
];

/**
 * Token ids of an instruction that follows a history: a user's turn and the beginning of the model's answer, or for a
 * model without a chat template a paragraph.
 */
export function instructionTurn(
  instruction: string,
  { tokenizer, template }: { readonly tokenizer: Tokenizer; readonly template: ChatTemplate },
): number[] {
  const encode = (text: string) => tokenizer.encode(text, { addSpecialTokens: false });
  if (!template.available) return encode(`${instruction}\n\n`);
  const added = [{ role: "user", content: instruction }];
  return encode(template.append({ history: BEFORE, added, addGenerationPrompt: true }).text);
}
