// What the tests of episodes have in common: the settings and vectors under which recall-llama does well.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Conversation, MemoryOptions } from "../../lib/index.js";
import { type RecallDialogue, recall } from "../engine/support.js";

/** How often each word that belongs to a topic is there. */
export function bagOfWords(texts: readonly string[]): number[][] {
  return texts.map((text) => {
    const counts: number[] = Array(topical.length).fill(0);
    for (const word of text.split(/\s+/)) {
      const at = topical.indexOf(word);
      if (at >= 0) counts[at] = (counts[at] ?? 0) + 1;
    }
    return counts;
  });
}

const lexicon = JSON.parse(readFileSync(join(recall, "lexicon.json"), "utf8"));
/** Words that belong to a topic. */
export const topical = [lexicon.entities, lexicon.topic_words].flatMap(
  (words: Record<string, string | string[]>) =>
    Object.values(words).flatMap((list) => (typeof list === "string" ? list.split(" ") : list)),
);

export const epicache = {
  policy: "epicache",
  budget: 128,
  block: 128,
  tail: 64,
  windows: { split: (text: string) => text.split(/ (?=user :|session )/) },
  instruction: false,
  embed: bagOfWords,
} satisfies MemoryOptions;

export async function rightAnswers(
  conversation: Conversation,
  questions: RecallDialogue["questions"],
): Promise<number> {
  let right = 0;
  for (const { question, answer } of questions) {
    const { text } = await conversation.ask(question, { maxTokens: 8, remember: false }).result();
    if (text === answer) right++;
  }
  return right;
}
