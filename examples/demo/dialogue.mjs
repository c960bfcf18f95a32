// Long multi-topic dialogues in the language of models/recall-llama, with facts whose answers are known exactly.
import { readFileSync } from "node:fs";

const lexiconFile = new URL("../../models/recall-llama/lexicon.json", import.meta.url);

/** The words that the recall model knows, by kind. */
export function loadLexicon() {
  const raw = JSON.parse(readFileSync(lexiconFile, "utf8"));
  const split = (byTopic) =>
    Object.fromEntries(
      Object.entries(byTopic).map(([topic, words]) => [
        topic,
        typeof words === "string" ? words.split(" ") : words,
      ]),
    );
  return { ...raw, entities: split(raw.entities), topic_words: split(raw.topic_words) };
}

/** A small seeded generator (mulberry32): the same seed always makes the same dialogue. */
export function seededRandom(seed) {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const integer = (bound) => Math.floor(next() * bound);
  return {
    next,
    integer,
    pick: (list) => list[integer(list.length)],
    shuffled: (list) => {
      const copy = [...list];
      for (let i = copy.length - 1; i > 0; i -= 1) {
        const j = integer(i + 1);
        [copy[i], copy[j]] = [copy[j], copy[i]];
      }
      return copy;
    },
  };
}

// Every word is one token, so words can be counted instead.
const countWords = (text) => text.split(" ").length;

/**
 * One dialogue: sessions on different topics, each with facts, small talk and a few questions about earlier facts.
 * The shares of the three are those the model's own test set has.
 *
 * @param {{ tokens: number, seed: number, sessions?: number, lexicon?: ReturnType<typeof loadLexicon> }} options
 *   tokens: length to reach, the beginning-of-text token counted
 * @returns {{ text: string, facts: { entity: string, attribute: string, value: string, topic: string }[] }}
 */
export function generateDialogue({ tokens, seed, sessions = 8, lexicon = loadLexicon() }) {
  const random = seededRandom(seed);
  const topics = random.shuffled(lexicon.topics).slice(0, sessions);
  const facts = [];
  const stated = new Set();
  const turns = [];
  let length = 1;
  const add = (turn) => {
    turns.push(turn);
    length += countWords(turn);
  };
  const smallTalk = (topic) => {
    const words = Array.from({ length: 3 + random.integer(6) }, () =>
      random.next() < 0.7 ? random.pick(lexicon.topic_words[topic]) : random.pick(lexicon.common_words),
    );
    return `user : ${words.join(" ")} . assistant : ok .`;
  };

  topics.forEach((topic, index) => {
    const end = 1 + Math.floor(((tokens - 1) * (index + 1)) / topics.length);
    const people = random.shuffled(lexicon.entities[topic]).slice(0, 2 + random.integer(5));
    add(`session ${topic} .`);
    while (end - length >= 14) {
      const kind = random.next();
      if (kind < 0.15 && facts.length > 0) {
        const { entity, attribute, value } = random.pick(facts);
        add(`user : ${entity} ${attribute} ? assistant : ${entity} ${attribute} is ${value} .`);
        continue;
      }
      const entity = random.pick(people);
      const attribute = random.pick(lexicon.attributes);
      if (kind < 0.55 || stated.has(`${entity} ${attribute}`)) {
        add(smallTalk(topic));
        continue;
      }
      const value = random.pick(lexicon.values);
      stated.add(`${entity} ${attribute}`);
      facts.push({ entity, attribute, value, topic });
      add(`user : ${entity} ${attribute} is ${value} .`);
    }
  });
  return { text: turns.join(" "), facts };
}
