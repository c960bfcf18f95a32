// The parts of kind `model` that are TypeScript: tokenizer and chat template. Strings and integers are exact.
import { join } from "node:path";
import { ChatTemplate } from "../../lib/text/chat-template.js";
import { Tokenizer } from "../../lib/text/tokenizer.js";
import type { Case } from "./cases.js";
import { differing } from "./limits.js";
import type { Report } from "./report.js";
import { Safetensors } from "./safetensors.js";

export async function runText(report: Report, model: Case): Promise<void> {
  const tokenizer = await Tokenizer.load(model.directory);
  const compareIds = (quantity: string, got: ArrayLike<number>, reference: ArrayLike<number>) =>
    report.quantity({ case: model.name, kind: "model", quantity, ...differing(got, reference) });

  // biome-ignore lint/suspicious/noExplicitAny: members that are missing or of another kind fail to compare.
  for (const [name, golden] of Object.entries<any>(model.json.golden)) {
    const file = new Safetensors(join(model.directory, golden.file));
    if (golden.text !== undefined) {
      compareIds(`${name}.input_ids`, tokenizer.encode(golden.text), file.read("input_ids").values);
    }
    for (const [j, text] of (golden.texts ?? []).entries()) {
      compareIds(`${name}.ids_${j}`, tokenizer.encode(text), file.read(`ids_${j}`).values);
    }
  }

  const { chat } = model.json;
  if (chat === undefined) return;
  const template = await ChatTemplate.load(model.directory, { named: tokenizer.named });
  const text = template.render(chat.messages, { addGenerationPrompt: chat.add_generation_prompt });
  compareIds("chat.text", codePoints(text), codePoints(chat.text));
  compareIds("chat.ids", tokenizer.encode(chat.text, { addSpecialTokens: false }), chat.ids);
}

const codePoints = (text: string) => Array.from(text, (character) => character.codePointAt(0) ?? 0);
