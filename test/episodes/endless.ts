// A conversation without an end, in the language of the recall model: facts are stated in turns and asked about later.
import { generateDialogue, loadLexicon, seededRandom } from "../../examples/demo/dialogue.mjs";
import type { Conversation } from "../../lib/index.js";

/** A turn: what is said, and for a question the answer. */
export interface EndlessTurn {
  readonly said: string;
  readonly answer?: string;
}

/** What stands before the first turn. */
export const history = (seed: number): string => generateDialogue({ tokens: 512, seed, sessions: 4 }).text;

/**
 * Turns for ever: sessions of 10 to 30 turns about one topic, in which facts, small talk and questions about facts of the
 * session's last turns take turns. A pair of entity and attribute comes back only when all others of its topic were told.
 */
export function* endlessTurns(seed: number, topics = 6): Generator<EndlessTurn, never> {
  const lexicon = loadLexicon();
  const random = seededRandom(seed);
  const chosen: string[] = random.shuffled(lexicon.topics).slice(0, topics);
  const untold = new Map<string, string[]>();
  const nextPair = (topic: string): string => {
    if (!untold.get(topic)?.length) {
      const pairs = lexicon.entities[topic].flatMap((entity: string) =>
        lexicon.attributes.map((attribute: string) => `${entity} ${attribute}`),
      );
      untold.set(topic, random.shuffled(pairs));
    }
    return (untold.get(topic) as string[]).pop() as string;
  };
  for (;;) {
    const topic = random.pick(chosen);
    const facts: { pair: string; value: string }[] = [];
    for (let turn = 10 + random.integer(21); turn > 0; turn--) {
      const kind = random.next();
      if (facts.length > 0 && kind < 0.5) {
        const { pair, value } = random.pick(facts.slice(-5));
        yield { said: ` user : ${pair} ? assistant :`, answer: `${pair} is ${value}` };
      } else if (kind < 0.85) {
        const fact = { pair: nextPair(topic), value: random.pick(lexicon.values) };
        facts.push(fact);
        yield { said: ` user : ${fact.pair} is ${fact.value} . assistant :` };
      } else {
        const words = Array.from({ length: 3 + random.integer(6) }, () =>
          random.pick(lexicon.topic_words[topic]),
        );
        yield { said: ` user : ${words.join(" ")} . assistant :` };
      }
    }
  }
}

/** Says a turn; whether its question was answered right, undefined without a question. */
export async function take(
  conversation: Conversation,
  encode: (text: string) => number[],
  { said, answer }: EndlessTurn,
): Promise<boolean | undefined> {
  const { text } = await conversation.ask(encode(said), { maxTokens: 8, temperature: 0 }).result();
  return answer === undefined ? undefined : text.trim() === answer;
}
