// How questions about a conversation between people are put to a model.

/** What the model is told with every question. It also is the prompt that policy patched-prompt scores rows by. */
export const INSTRUCTION =
  "Answer the following question about the conversation above in a few words, not in whole sentences, and in the conversation's own words where they fit.";

const QUESTION = "\n\nQuestion: ";
const END = "\nShort answer:";

/**
 * @param {{ question: string, hint?: string }} question `hint` is what this question's kind is told besides
 * @param {boolean} chat whether the model has a chat format; one that has none continues the text
 */
export function promptOf({ question, hint }, chat) {
  const prompt = `${INSTRUCTION}${hint === undefined ? "" : ` ${hint}`}${QUESTION}${question}`;
  return chat ? prompt : `\n\n${prompt}${END}`;
}

/** The question alone, which tells what it is about; texts that are no prompts stay as they are. */
export function bareQuestion(text) {
  if (!text.trimStart().startsWith(INSTRUCTION)) return text;
  const question = text.slice(text.indexOf(QUESTION) + QUESTION.length);
  return question.endsWith(END) ? question.slice(0, -END.length) : question;
}
