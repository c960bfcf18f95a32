// A long conversation under several memories at once: what each turn takes, and what stood before the first one.
import { questionOf, recallDialogue } from "../data/generated.mjs";
import { forwardedTokens, memoryOf } from "../policies.mjs";
import { SCORERS } from "../score/scorers.mjs";
import { planTurns } from "./plan.mjs";

const ANSWER_TOKENS = 8;

/** What stands before the first question: memory is reserved and the history taken in. */
async function setUp(engine, chosen, memory, text, signal) {
  const begin = performance.now();
  const conversation = await engine.conversation({ memory, signal });
  try {
    await conversation.ingest(text, { signal });
  } catch (error) {
    await conversation.dispose();
    throw error;
  }
  const setUpMs = performance.now() - begin;
  const forwarded = forwardedTokens(memory, conversation.memory());
  const { name, policy, options, budget } = chosen;
  return {
    conversation,
    result: {
      name,
      policy,
      options,
      budget: budget ?? null,
      setUpMs,
      turnMs: [],
      right: 0,
      forwardedTokens: forwarded,
    },
  };
}

/**
 * A turn as the dialogue's other turns are written, in token ids: rendering a chat template would be measured with it.
 */
const turnIds = (engine, question) =>
  engine.tokenizer.encode(` user : ${question} assistant :`, { addSpecialTokens: false, continuation: true });

async function ask(engine, conversation, { question, answer }, result, signal) {
  const ids = turnIds(engine, question);
  const begin = performance.now();
  const { text } = await conversation.ask(ids, { maxTokens: ANSWER_TOKENS, temperature: 0, signal }).result();
  result.turnMs.push(performance.now() - begin);
  result.right += SCORERS.exact.score({ answer }, text);
}

/** The first work after loading also pays for memory that is touched for the first time. */
async function warmUp(engine, text, common, signal) {
  const memory = memoryOf({ policy: "full", options: {} }, {}, common);
  const { conversation, result } = await setUp(engine, { name: "warm-up" }, memory, text, signal);
  await ask(engine, conversation, { question: "again ?", answer: "" }, result, signal);
  await conversation.dispose();
}

/**
 * Turns stay in the conversation, as they would. Every memory gets the same turns, and they take each turn one after
 * the other, so that what else the machine does meets them alike.
 *
 * @param {import("longhaul").Engine} engine
 * @param {readonly object[]} runs the first is full KV
 * @param {{ tokens: number, turns: number, switches: number, seed: number, block: number, tail: number,
 *   embed?: Function, signal: AbortSignal, onTurn: (done: number) => void, onSetUp: (name: string) => void }} settings
 */
export async function runTurns(engine, runs, { tokens, turns, switches, seed, signal, ...settings }) {
  const { onTurn, onSetUp, ...common } = settings;
  const { facts, ...dialogue } = recallDialogue({ tokens, seed });
  const plan = planTurns(facts.map(questionOf), { turns, switches, seed });
  await warmUp(engine, dialogue.text, common, signal);
  const series = [];
  try {
    for (const chosen of runs) {
      onSetUp(chosen.name);
      const memory = memoryOf(chosen, dialogue, { ...common, budget: chosen.budget });
      // The paper makes its episodes once; whoever wants to see them made anew names the option.
      if (memory.policy === "epicache") memory.recluster ??= "never";
      series.push(await setUp(engine, chosen, memory, dialogue.text, signal));
    }
    const historyTokens = series[0].conversation.memory().tokensSeen;
    for (const [turn, question] of plan.entries()) {
      onTurn(turn);
      for (const [index] of series.entries()) {
        const { conversation, result } = series[(index + turn) % series.length];
        await ask(engine, conversation, question, result, signal);
      }
    }
    return {
      historyTokens,
      switched: plan.filter(({ switched }) => switched).length,
      topics: new Set(facts.map(({ topic }) => topic)).size,
      series: series.map(({ conversation, result }) => {
        const { peakBytes, bytes, tokensSeen } = conversation.memory();
        return { ...result, peakBytes, bytes, tokensSeen };
      }),
    };
  } finally {
    await Promise.all(series.map(({ conversation }) => conversation.dispose()));
  }
}
