// A conversation without an end, in the language of the recall model: facts are stated in turns and asked about later.
import type { Conversation } from "../../lib/index.js";

interface Random {
  next(): number;
  integer(bound: number): number;
  pick<T>(list: readonly T[]): T;
  shuffled<T>(list: readonly T[]): T[];
}

interface Lexicon {
  readonly topics: readonly string[];
  readonly attributes: readonly string[];
  readonly values: readonly string[];
  readonly entities: Readonly<Record<string, readonly string[]>>;
  readonly topic_words: Readonly<Record<string, readonly string[]>>;
}

interface Language {
  generateDialogue(options: { tokens: number; seed: number; sessions: number }): { text: string };
  loadLexicon(): Lexicon;
  seededRandom(seed: number): Random;
}

const path = new URL("../../examples/demo/dialogue.mjs", import.meta.url);
const { generateDialogue, loadLexicon, seededRandom } = (await import(path.href)) as Language;

/** A turn: what is said, and for a question the answer. */
export interface EndlessTurn {
  readonly said: string;
  readonly answer?: string;
}

/** What stands before the first turn. */
export const shortHistory = (seed: number): string => generateDialogue({ tokens: 512, seed, sessions: 4 }).text;

/** Turns after which topics and kinds of turns come again, so that parts of a conversation can be compared. */
export const PERIOD = 500;

/**
 * Turns for ever: sessions of 10 to 30 turns about one of six topics, in which facts, small talk and questions about the
 * session's last five facts take turns. A pair of entity and attribute comes back when all others of its topic were told.
 */
export function* endlessTurns(seed: number): Generator<EndlessTurn, never> {
  const lexicon = loadLexicon();
  const words = seededRandom(seed + 1);
  const untold = new Map<string, string[]>();
  const pairOf = (topic: string): string => {
    const pair = untold.get(topic)?.pop();
    if (pair !== undefined) return pair;
    const pairs = (lexicon.entities[topic] ?? []).flatMap((entity) =>
      lexicon.attributes.map((attribute) => `${entity} ${attribute}`),
    );
    untold.set(topic, words.shuffled(pairs));
    return pairOf(topic);
  };
  for (;;) yield* onePeriod(lexicon, seededRandom(seed), words, pairOf);
}

function* onePeriod(
  lexicon: Lexicon,
  form: Random,
  words: Random,
  pairOf: (topic: string) => string,
): Generator<EndlessTurn, void> {
  const topics = form.shuffled(lexicon.topics).slice(0, 6);
  for (let turn = 0; turn < PERIOD; ) {
    const topic = form.pick(topics);
    const end = Math.min(PERIOD, turn + 10 + form.integer(21));
    const facts: { pair: string; value: string }[] = [];
    for (; turn < end; turn++) {
      const kind = form.next();
      if (facts.length > 0 && kind < 0.5) {
        const { pair, value } = form.pick(facts.slice(-5));
        yield { said: ` user : ${pair} ? assistant :`, answer: `${pair} is ${value}` };
      } else if (kind < 0.85) {
        const fact = { pair: pairOf(topic), value: words.pick(lexicon.values) };
        facts.push(fact);
        yield { said: ` user : ${fact.pair} is ${fact.value} . assistant :` };
      } else {
        const talk = Array.from({ length: 6 }, () => words.pick(lexicon.topic_words[topic] ?? []));
        yield { said: ` user : ${talk.join(" ")} . assistant :` };
      }
    }
  }
}

/** Says a turn; whether its question was answered right, undefined where there was none. */
export async function take(
  conversation: Conversation,
  encode: (text: string) => number[],
  { said, answer }: EndlessTurn,
): Promise<boolean | undefined> {
  const { text } = await conversation.ask(encode(said), { maxTokens: 8, temperature: 0 }).result();
  return answer === undefined ? undefined : text.trim() === answer;
}
