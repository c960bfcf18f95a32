// Dialogues in the language of models/recall-llama, whose answers are exact.
import { generateDialogue, loadLexicon } from "../../examples/demo/dialogue.mjs";
import { chooseQuestions, episodicMemory, observingPrompt } from "../../examples/demo/questions.mjs";

const OBSERVED_PAIRS = 48;
const QUARTERS = ["first quarter", "second quarter", "third quarter", "last quarter"];

/** One dialogue with its facts in the order in which they were stated, and what policies want to know of it. */
export function recallDialogue({ tokens, seed, lexicon = loadLexicon() }) {
  const { text, facts } = generateDialogue({ tokens, seed, lexicon });
  return {
    id: `seed ${seed}`,
    text,
    facts,
    memory: episodicMemory(lexicon),
    prompt: observingPrompt({ lexicon, facts, seed: seed + 1000, pairs: OBSERVED_PAIRS }),
  };
}

export const questionOf = ({ entity, attribute, value, topic }) => ({
  question: `${entity} ${attribute} ?`,
  answer: value,
  topic,
});

/** A data set of dialogues with seeds `seed`, `seed` + 1, ...; each question's category is where its fact stands. */
export function generateData({ tokens, dialogues: count, questions, seed }) {
  const lexicon = loadLexicon();
  const dialogues = Array.from({ length: count }, (_, index) => {
    const { facts, ...dialogue } = recallDialogue({ tokens, seed: seed + index, lexicon });
    const placed = facts.map((fact, place) => ({
      ...questionOf(fact),
      category: QUARTERS[Math.floor((4 * place) / facts.length)],
    }));
    return { ...dialogue, questions: chooseQuestions(placed, questions) };
  });
  return {
    name: "generated dialogues",
    group: `${tokens} tokens`,
    tokens,
    scorers: ["exact"],
    dialogues,
    leftOut: 0,
    categories: "By where in the conversation a fact was stated: its facts in four equal parts.",
    ask: ({ question }) => question,
    bare: (text) => text,
    meaning: (_question, prediction) => prediction,
    drawing: () => ({ maxTokens: 8 }),
  };
}
