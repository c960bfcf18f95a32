// The questions of a long conversation that keeps to a topic for a while and then goes over to another.
import { seededRandom } from "../../examples/demo/dialogue.mjs";

/**
 * @template {{ topic: string }} Q
 * @param {readonly Q[]} questions
 * @param {{ turns: number, switches: number, seed: number }} options `switches`: the share of turns that are
 *   about another topic than the one before, at random places
 * @returns {(Q & { switched: boolean })[]}
 */
export function planTurns(questions, { turns, switches, seed }) {
  const random = seededRandom(seed);
  const topics = new Map();
  for (const question of questions)
    topics.set(question.topic, [...(topics.get(question.topic) ?? []), question]);
  const later = Array.from({ length: turns - 1 }, (_, index) => index + 1);
  const switching = new Set(
    topics.size > 1 ? random.shuffled(later).slice(0, Math.round(switches * turns)) : [],
  );
  let topic = random.pick([...topics.keys()]);
  return Array.from({ length: turns }, (_, turn) => {
    const switched = switching.has(turn);
    if (switched) topic = random.pick([...topics.keys()].filter((name) => name !== topic));
    return { ...random.pick(topics.get(topic)), switched };
  });
}
