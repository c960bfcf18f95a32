// What the demo measures: one policy and budget over all dialogues.

/** @typedef {{ policy: string, budget?: number, block?: number, tail?: number, prompt?: string }} Memory */

/**
 * Takes every dialogue in, asks its questions and measures what that costs. Each question is asked of the same
 * cache and forgotten again, so no answer helps another.
 *
 * @param {import("longhaul").Engine} engine
 * @param {{ text: string, asked: { entity: string, attribute: string, value: string }[], prompt: string }[]} dialogues
 * @param {Memory} memory for the policy patched-prompt each dialogue brings its own prompt
 */
export async function measure(engine, dialogues, memory) {
  const total = { right: 0, asked: 0, historyTokens: 0, prefillMs: 0, answerTokens: 0, decodeMs: 0 };
  const rows = { kept: 0, seen: 0 };
  const firstTokenMs = [];
  let peakBytes = 0;
  let reservedBytes = 0;
  for (const { text, asked, prompt } of dialogues) {
    const own = memory.policy === "patched-prompt" ? { ...memory, prompt } : memory;
    const conversation = await engine.conversation({ memory: own });
    const begin = performance.now();
    await conversation.ingest(text);
    total.prefillMs += performance.now() - begin;
    const held = conversation.memory();
    total.historyTokens += held.tokensSeen;
    rows.kept += sum(held.rows.flat());
    rows.seen += held.tokensSeen * held.rows.flat().length;

    for (const { entity, attribute, value } of asked) {
      const answer = await conversation
        .ask(`${entity} ${attribute} ?`, { maxTokens: 8, temperature: 0, remember: false })
        .result();
      total.asked += 1;
      if (wordAfterIs(answer.text) === value) total.right += 1;
      // The first token's time is that of reading the question.
      firstTokenMs.push(answer.timing.firstTokenMs);
      total.answerTokens += answer.usage.completionTokens - 1;
      total.decodeMs += answer.timing.totalMs - answer.timing.firstTokenMs;
    }
    const after = conversation.memory();
    peakBytes = Math.max(peakBytes, after.peakBytes);
    reservedBytes = Math.max(reservedBytes, after.reservedBytes);
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
    prefillTokensPerSecond: (total.historyTokens * 1000) / total.prefillMs,
    decodeTokensPerSecond: (total.answerTokens * 1000) / total.decodeMs,
    firstTokenMs: median(firstTokenMs),
  };
}

/** The model answers "ENTITY ATTRIBUTE is VALUE .": only VALUE can be right or wrong. */
function wordAfterIs(answer) {
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
