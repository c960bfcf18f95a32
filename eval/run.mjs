// One memory over all dialogues of a data set: what it answers, and what it costs.
import { summarise } from "../bench/statistics.mjs";
import { forwardedTokens, memoryOf } from "./policies.mjs";
import { Tally } from "./score/scorers.mjs";

/** An error with the dialogue in front, as the next one may be fine. */
function named(error, { id }) {
  if (error.code === undefined) return error;
  error.message = `dialogue ${id}: ${error.message}`;
  return error;
}

/** Takes one history in and asks its questions, each of the same cache, so that no answer helps another. */
async function askAll(engine, data, dialogue, memory, { signal, onQuestion, onAnswer }) {
  const chat = engine.info().hasChatTemplate;
  const drawing = { ...data.drawing(chat), temperature: 0, remember: false, signal };
  const conversation = await engine.conversation({ memory, signal });
  try {
    const begin = performance.now();
    await conversation.ingest(dialogue.text, { signal });
    const ingestMs = performance.now() - begin;
    const forwarded = forwardedTokens(memory, conversation.memory());
    const answerMs = [];
    for (const [index, question] of dialogue.questions.entries()) {
      onQuestion(index);
      const asked = performance.now();
      const { text } = await conversation.ask(data.ask(question, chat), drawing).result();
      answerMs.push(performance.now() - asked);
      onAnswer(question, text);
    }
    const { peakBytes, reservedBytes, tokensSeen } = conversation.memory();
    return { ingestMs, answerMs, peakBytes, reservedBytes, tokens: tokensSeen, forwarded };
  } finally {
    await conversation.dispose();
  }
}

/**
 * @param {import("longhaul").Engine} engine
 * @param {object} data as `loadFiles` or `generateData` gives it
 * @param {{ name: string, policy: string, options: object, budget?: number }} chosen
 * @param {{ block: number, tail: number, embed?: Function, signal: AbortSignal,
 *   onQuestion: (dialogue: number, question: number) => void, onAnswer: (record: object) => void }} settings
 */
export async function evaluate(engine, data, chosen, { onQuestion, onAnswer, signal, ...common }) {
  const tally = new Tally(data.scorers);
  const costs = [];
  for (const [index, dialogue] of data.dialogues.entries()) {
    const memory = memoryOf(chosen, dialogue, { ...common, budget: chosen.budget });
    const report = {
      signal,
      onQuestion: (question) => onQuestion(index, question),
      onAnswer: (question, text) => {
        const prediction = data.meaning(question, text.trim());
        const scores = tally.add(question, prediction);
        const { question: asked, answer, category } = question;
        onAnswer({ dialogue: dialogue.id, question: asked, category, answer, prediction, scores });
      },
    };
    try {
      costs.push(await askAll(engine, data, dialogue, memory, report));
    } catch (error) {
      throw named(error, dialogue);
    }
  }
  const most = (of) => Math.max(...costs.map(of));
  const total = (of) => costs.reduce((sum, cost) => sum + of(cost), 0);
  return {
    group: data.group,
    name: chosen.name,
    policy: chosen.policy,
    options: chosen.options,
    budget: chosen.budget ?? null,
    dialogues: data.dialogues.length,
    ...tally.summary(),
    tokens: total(({ tokens }) => tokens) / costs.length,
    forwardedTokens: total(({ forwarded }) => forwarded) / costs.length,
    peakBytes: most(({ peakBytes }) => peakBytes),
    reservedBytes: most(({ reservedBytes }) => reservedBytes),
    ingestMs: summarise(costs.map(({ ingestMs }) => ingestMs)),
    answerMs: summarise(costs.flatMap(({ answerMs }) => answerMs)),
  };
}
