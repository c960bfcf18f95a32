// Measures longhaul in a process of its own: node worker.mjs SPEC. Prints one line of JSON.
import { Engine } from "../../dist/index.mjs";
import { ANSWERS, historyTokens, QUESTION } from "./history.mjs";
import { processMemory, resetPeak } from "./process-memory.mjs";

/** @param {import("./plan.mjs").Spec} spec */
async function measure(spec) {
  resetPeak();
  const before = processMemory().rss;
  const loadStart = performance.now();
  const engine = await Engine.load(spec.directory, {
    device: spec.device,
    threads: spec.threads,
    kvBytes: spec.kvBytes,
  });
  const loadMs = performance.now() - loadStart;
  const loaded = processMemory().peak - before;
  const conversation = await engine.conversation({ memory: spec.memory });
  const tokens = historyTokens(spec.points.at(-1));
  const points = [];
  let fed = 0;
  let prefillMs = 0;
  for (const history of spec.points) {
    const start = performance.now();
    await conversation.ingest(tokens.slice(fed, history));
    const ms = performance.now() - start;
    prefillMs += ms;
    const answers = [];
    for (let i = 0; i < ANSWERS; ++i) {
      const answer = await conversation
        .ask(QUESTION, { temperature: 0, maxTokens: spec.answerTokens, stopTokens: [], remember: false })
        .result();
      answers.push(answer);
    }
    const { bytes } = conversation.memory();
    points.push({
      history,
      prefillTokensPerSecond: (history - fed) / (ms / 1e3),
      decodeTokensPerSecond: answers.map(
        ({ tokens: drawn, timing }) => (drawn.length - 1) / ((timing.totalMs - timing.firstTokenMs) / 1e3),
      ),
      // Of someone who brings the whole history along, and of someone whose history is in the cache.
      firstTokenMs: prefillMs + answers[0].timing.firstTokenMs,
      nextTokenMs: answers.map(({ timing }) => timing.firstTokenMs),
      kvBytes: bytes,
      residentBytes: processMemory().peak - before,
      answer: answers[0].tokens,
    });
    fed = history;
  }
  const { weights, workspace, tables, tokenizer, pool } = engine.memory();
  const memory = conversation.memory();
  await engine.dispose();
  return {
    loadMs,
    points,
    // Tokens that went through the model, those of answers that were forgotten again included.
    forwardedTokens:
      memory.tokensSeen + spec.points.length * ANSWERS * (QUESTION.length + spec.answerTokens - 1),
    memory: {
      stated: weights + workspace + tables + tokenizer + pool.peak,
      weights,
      workspace,
      tables,
      tokenizer,
      poolPeak: pool.peak,
      pool: pool.bytes,
      conversationPeak: memory.peakBytes,
      conversationReserved: memory.reservedBytes,
      resident: points.at(-1).residentBytes,
      residentLoaded: loaded,
    },
  };
}

measure(JSON.parse(process.argv[2])).then(
  (result) => console.log(JSON.stringify(result)),
  (error) => {
    console.error(error);
    process.exitCode = 1;
  },
);
