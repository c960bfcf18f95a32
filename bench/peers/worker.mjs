// Measures node-llama-cpp as engine/worker.mjs measures longhaul: node worker.mjs SPEC. Prints one line of JSON.
// It stands here because ESM looks for packages from the script's folder.
import fs from "node:fs";
import { getLlama, LlamaLogLevel } from "node-llama-cpp";
import { ANSWERS, historyTokens, QUESTION } from "../engine/history.mjs";
import { processMemory, resetPeak } from "../engine/process-memory.mjs";

const version = () =>
  JSON.parse(fs.readFileSync(new URL("node_modules/node-llama-cpp/package.json", import.meta.url), "utf8"))
    .version;

/** @param {import("../engine/plan.mjs").Spec} spec */
async function measure(spec) {
  const llama = await getLlama({
    gpu: false,
    build: "never",
    skipDownload: true,
    logLevel: LlamaLogLevel.error,
    maxThreads: spec.threads,
  });
  resetPeak();
  const before = processMemory().rss;
  const loadStart = performance.now();
  const model = await llama.loadModel({ modelPath: spec.gguf, gpuLayers: 0 });
  const loadMs = performance.now() - loadStart;
  const context = await model.createContext({
    contextSize: spec.points.at(-1) + QUESTION.length + spec.answerTokens + 16,
    batchSize: 512,
    threads: { ideal: spec.threads, min: spec.threads },
    sequences: 1,
  });
  const sequence = context.getSequence();
  const tokens = historyTokens(spec.points.at(-1));
  // Without it an erased range that begins at 0 would drop the whole cache.
  if (tokens[0] !== model.tokens.bos) throw new Error("the history must begin with BOS");
  const points = [];
  let fed = 0;
  let prefillMs = 0;
  for (const history of spec.points) {
    const start = performance.now();
    await sequence.evaluateWithoutGeneratingNewTokens(tokens.slice(fed, history));
    const ms = performance.now() - start;
    prefillMs += ms;
    const answers = [];
    for (let i = 0; i < ANSWERS; ++i) {
      const drawn = [];
      const begin = performance.now();
      let first = 0;
      for await (const token of sequence.evaluate(QUESTION, { temperature: 0, yieldEogToken: true })) {
        drawn.push(token);
        if (drawn.length === 1) first = performance.now();
        if (drawn.length === spec.answerTokens) break;
      }
      answers.push({ drawn, firstTokenMs: first - begin, totalMs: performance.now() - begin });
      await sequence.eraseContextTokenRanges([{ start: history, end: sequence.nextTokenIndex }]);
    }
    points.push({
      history,
      prefillTokensPerSecond: (history - fed) / (ms / 1e3),
      decodeTokensPerSecond: answers.map(
        ({ drawn, firstTokenMs, totalMs }) => (drawn.length - 1) / ((totalMs - firstTokenMs) / 1e3),
      ),
      firstTokenMs: prefillMs + answers[0].firstTokenMs,
      nextTokenMs: answers.map(({ firstTokenMs }) => firstTokenMs),
      residentBytes: processMemory().peak - before,
      answer: answers[0].drawn,
    });
    fed = history;
  }
  await llama.dispose();
  return { loadMs, points, version: version(), memory: { resident: points.at(-1).residentBytes } };
}

measure(JSON.parse(process.argv[2])).then(
  (result) => console.log(JSON.stringify(result)),
  (error) => {
    console.error(error);
    process.exitCode = 1;
  },
);
