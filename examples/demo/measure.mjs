// What the demo measures: one policy and budget over all dialogues.

/** Answers per dialogue that the speed of decoding is measured on. */
const LONG_ANSWERS = 8;

/** @typedef {import("longhaul").MemoryOptions} Memory */

/**
 * Takes every dialogue in, asks its questions and measures what that costs. Each question is asked of the same
 * cache and forgotten again, so no answer helps another.
 *
 * @param {import("longhaul").Engine} engine
 * @param {{ text: string, asked: { entity: string, attribute: string, value: string }[], prompt: string }[]} dialogues
 * @param {Memory} memory for the policy patched-prompt each dialogue brings its own prompt
 */
export async function measure(engine, dialogues, memory) {
  const total = { right: 0, asked: 0 };
  const rows = { kept: 0, seen: 0 };
  // One number a dialogue, or an answer: their medians stand whatever else the machine does in between.
  const prefillRates = [];
  const decodeRates = [];
  const firstTokenMs = [];
  let peakBytes = 0;
  let reservedBytes = 0;
  let forwardedTokens = 0;
  for (const { text, asked, prompt } of dialogues) {
    const own = memory.policy === "patched-prompt" ? { ...memory, prompt } : memory;
    const conversation = await engine.conversation({ memory: own });
    const begin = performance.now();
    await conversation.ingest(text);
    const prefillMs = performance.now() - begin;
    const held = conversation.memory();
    prefillRates.push((held.tokensSeen * 1000) / prefillMs);
    rows.kept += sum(held.rows.flat());
    rows.seen += held.tokensSeen * held.rows.flat().length;
    forwardedTokens += held.episodes?.forwardedTokens ?? 0;

    for (const { entity, attribute, value } of asked) {
      const answer = await conversation
        .ask(`${entity} ${attribute} ?`, { maxTokens: 8, temperature: 0, remember: false })
        .result();
      total.asked += 1;
      if (wordAfterIs(answer.text) === value) total.right += 1;
      // The first token's time is that of reading the question.
      if (answer.timing.firstTokenMs !== undefined) firstTokenMs.push(answer.timing.firstTokenMs);
    }
    const after = conversation.memory();
    peakBytes = Math.max(peakBytes, after.peakBytes);
    reservedBytes = Math.max(reservedBytes, after.reservedBytes);
    for (let seed = 0; seed < LONG_ANSWERS; seed += 1)
      decodeRates.push(...(await decodeRate(conversation, asked[0], seed)));
    await conversation.dispose();
  }
  return {
    policy: memory.policy,
    budget: memory.budget ?? null,
    right: total.right,
    asked: total.asked,
    peakBytes,
    reservedBytes,
    rowsKept: rows.kept / rows.seen,
    ...(forwardedTokens > 0 ? { forwardedTokens } : {}),
    prefillTokensPerSecond: median(prefillRates),
    decodeTokensPerSecond: median(decodeRates),
    firstTokenMs: median(firstTokenMs),
  };
}

/**
 * Tokens per second of an answer of random words. The real answers are four words long and over in less time than it
 * takes to hear of their first one.
 */
async function decodeRate(conversation, { entity, attribute }, seed) {
  const { usage, timing } = await conversation
    .ask(`${entity} ${attribute} ?`, { maxTokens: 48, temperature: 100, seed, remember: false })
    .result();
  // Random words may end the answer with the first of them.
  if (usage.completionTokens < 2) return [];
  return [((usage.completionTokens - 1) * 1000) / (timing.totalMs - timing.firstTokenMs)];
}

/** The model answers "ENTITY ATTRIBUTE is VALUE .": only VALUE can be right or wrong. */
export function wordAfterIs(answer) {
  return / is (\S+)/.exec(` ${answer}`)?.[1];
}

function sum(numbers) {
  return numbers.reduce((total, number) => total + number, 0);
}

function median(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
