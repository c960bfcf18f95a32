// What is asked about a dialogue, and the prompt that stands in for questions nobody has asked yet.
import { seededRandom } from "./dialogue.mjs";

/** `number` facts of a dialogue, evenly spread over it: a memory that forgets the beginning must not look good. */
export function chooseQuestions(facts, number) {
  const wanted = Math.min(number, facts.length);
  return Array.from(
    { length: wanted },
    (_, index) => facts[Math.floor(((index + 0.5) * facts.length) / wanted)],
  );
}

/**
 * The prompt of the policy patched-prompt: what questions consist of in this language, random pairs of an entity and
 * an attribute. None of them is a fact of the dialogue, so it tells the policy what questions look like, not what will
 * be asked.
 */
export function observingPrompt({ lexicon, facts, seed, pairs }) {
  const random = seededRandom(seed);
  const stated = new Set(facts.map(({ entity, attribute }) => `${entity} ${attribute}`));
  const entities = Object.values(lexicon.entities).flat();
  const chosen = [];
  while (chosen.length < pairs) {
    const pair = `${random.pick(entities)} ${random.pick(lexicon.attributes)}`;
    if (!stated.has(pair)) chosen.push(pair);
  }
  return chosen.join(" ");
}

/**
 * How policy epicache reads a dialogue of this language: by its turns, without an instruction in words that the model
 * has never seen, and with vectors that count the words of each topic, since so small a model's hidden states tell
 * topics apart badly.
 */
export function episodicMemory(lexicon) {
  const topical = [lexicon.entities, lexicon.topic_words].flatMap((words) => Object.values(words).flat());
  const places = new Map(topical.map((word, index) => [word, index]));
  const embed = (texts) =>
    texts.map((text) => {
      const counts = new Float32Array(topical.length);
      for (const word of text.split(" ")) if (places.has(word)) counts[places.get(word)] += 1;
      return counts;
    });
  return { embed, instruction: false, windows: { split: (text) => text.split(/ (?=user :|session )/) } };
}
