// What is measured end to end.
import { defaultModels, shapeOf } from "../models/shapes.mjs";
import { ANSWERS, QUESTION } from "./history.mjs";

/**
 * @typedef {object} Spec what a worker gets
 * @property {string} directory
 * @property {string} gguf
 * @property {string} device
 * @property {number} threads
 * @property {number[]} points lengths of history at which answers are drawn
 * @property {number} answerTokens
 * @property {object} memory as Engine.conversation takes it
 * @property {number} kvBytes
 */

const PAGE_ROWS = 16;
const BLOCK = 512;
const TAIL = 512;
const WINDOW = 32;

const pages = (rows) => Math.ceil(rows / PAGE_ROWS);

/** Bytes of the pool that one conversation of `rows` tokens needs (ARCHITECTURE.md, "Memory"). */
export function poolBytes(shape, dtype, memory, rows) {
  const { layers, kvHeads, headDim } = shape;
  const page = PAGE_ROWS * (2 * headDim * (dtype === "bf16" ? 2 : 4) + 4);
  if (memory.policy === "full") return layers * kvHeads * pages(rows) * page;
  const kept = layers * (Math.floor((memory.budget * kvHeads) / PAGE_ROWS) + kvHeads);
  return (kept + layers * kvHeads * pages(TAIL) + kvHeads * pages(BLOCK + WINDOW)) * page;
}

const full = { policy: "full", block: BLOCK };
const bounded = (budget) => ({ policy: "snapkv", budget, block: BLOCK, tail: TAIL, window: WINDOW });

export const nameOfMemory = (memory) => (memory.policy === "full" ? "full" : `budget ${memory.budget}`);

/** Lengths of history by model. */
const POINTS = {
  stories260K: [512, 2048],
  "SmolLM2-135M": [1024, 4096, 16384, 32768],
  "Qwen2.5-0.5B": [1024, 4096, 16384],
  "Llama-3.2-1B": [1024, 4096, 16384],
  "Llama-3.1-8B": [1024, 4096, 32768],
};
/** Longer histories take minutes each: they are read in the first repetition only, and on all cores only. */
const REPEATED_UP_TO = 4096;
const QUICK_POINTS = {
  stories260K: [512],
  "SmolLM2-135M": [512, 1024, 2048],
  "Llama-3.2-1B": [1024, 4096],
};

/** A tiny model shows what a token costs beside its arithmetic, so many tokens are drawn. */
const answerTokens = (name, quick) => (name === "stories260K" ? 256 : quick ? 16 : 32);

/**
 * The runs of one repetition, in order.
 * @param {{ quick: boolean, models?: string[], threads: number[], filter: string, device: string }} options
 */
export function planRuns({ quick, models, threads, filter, device }) {
  const chosen = models ?? defaultModels(device, quick);
  const runs = [];
  for (const name of chosen) {
    const shape = shapeOf(name);
    const dtype = name === "stories260K" ? "f32" : "bf16";
    const all = (quick && QUICK_POINTS[name]) || POINTS[name];
    const repeated = all.filter((history) => history <= REPEATED_UP_TO);
    const budgets = name === "stories260K" ? [] : quick ? [512] : [1024, 2048];
    for (const count of threads) {
      const points = count === Math.max(...threads) ? all : repeated;
      for (const memory of [full, ...budgets.map(bounded)]) {
        const rows = points.at(-1) + ANSWERS + QUESTION.length + answerTokens(name, quick);
        const kvBytes = poolBytes(shape, dtype, memory, rows);
        const key = `engine ${name} ${dtype} ${nameOfMemory(memory)}`;
        if (!key.includes(filter)) continue;
        const spec = {
          device,
          threads: count,
          points,
          answerTokens: answerTokens(name, quick),
          memory,
          kvBytes,
        };
        runs.push({ model: name, shape, dtype, threads: count, memory: nameOfMemory(memory), repeated, spec });
      }
    }
  }
  return runs;
}
