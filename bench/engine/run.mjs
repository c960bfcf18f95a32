// Runs the engines, one process a measurement, ours and the peer's in turn, and puts the repetitions together.
import { spawn } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { runJsonLines } from "../child.mjs";
import { loadAverage } from "../machine.mjs";
import { ensureCheckpoint } from "../models/checkpoint.mjs";
import { ensureGguf } from "../models/gguf.mjs";
import { decodeBytes, prefillFlops } from "../models/shapes.mjs";
import { summarise } from "../statistics.mjs";

const here = path.dirname(fileURLToPath(import.meta.url));
const OURS = path.join(here, "worker.mjs");
const PEER = path.join(here, "..", "peers", "worker.mjs");

export const peerInstalled = () =>
  fs.existsSync(path.join(here, "..", "peers", "node_modules", "node-llama-cpp"));

async function measureOnce(worker, spec) {
  let result;
  const load = loadAverage()[0];
  const code = await runJsonLines(process.execPath, [worker, JSON.stringify(spec)], (line) => {
    result = line;
  });
  if (code !== 0 || result === undefined)
    throw new Error(`${path.basename(path.dirname(worker))}: a run failed`);
  return { ...result, load };
}

/** One record of several repetitions, the first with all points: every number as median, least and most. */
export function merge(run, engine, results) {
  const points = results[0].points.map(({ history, kvBytes }, index) => {
    const present = results.filter((result) => result.points.length > index);
    const all = (pick) => summarise(present.flatMap((result) => pick(result.points[index])));
    return {
      history,
      prefillTokensPerSecond: all((point) => point.prefillTokensPerSecond),
      decodeTokensPerSecond: all((point) => point.decodeTokensPerSecond),
      firstTokenMs: all((point) => point.firstTokenMs),
      nextTokenMs: all((point) => point.nextTokenMs),
      residentBytes: all((point) => point.residentBytes),
      // What a full cache takes at least; what a bounded one takes depends on when it evicted.
      ...(run.memory === "full"
        ? {
            prefillFlops: prefillFlops(run.shape, results[0].points[index - 1]?.history ?? 0, history),
            decodeBytes: decodeBytes(run.shape, run.dtype, history + run.spec.answerTokens / 2),
          }
        : {}),
      ...(kvBytes === undefined ? {} : { kvBytes }),
    };
  });
  const { model, dtype, threads, memory } = run;
  return {
    engine,
    ...(results[0].version === undefined ? {} : { version: results[0].version }),
    model,
    dtype,
    threads,
    memory,
    answerTokens: run.spec.answerTokens,
    loadMs: summarise(results.map(({ loadMs }) => loadMs)),
    loadAverage: results.map(({ load }) => load),
    points,
    bytes: results[0].memory,
    ...(results[0].forwardedTokens === undefined ? {} : { forwardedTokens: results[0].forwardedTokens }),
  };
}

function commonLength(a, b) {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; ++i) if (a[i] !== b[i]) return i;
  return length;
}

/**
 * How many of the first tokens of each answer both engines draw. They part where two tokens are nearly as probable,
 * for their sums round differently; that they never meet means that they do not run the same model.
 */
function sameTokens(run, ours, theirs) {
  const same = ours.points.map(({ answer }, index) => commonLength(answer, theirs.points[index].answer));
  if (same.every((length) => length === 0)) {
    throw new Error(
      `${run.model} ${run.dtype}: the two engines draw different tokens, so they are not comparable`,
    );
  }
  return same;
}

/**
 * @param {object[]} runs of planRuns
 * @param {{ repeats: number, peers: boolean, cache: string, onRecord: (record: object) => void }} options
 */
export async function runEngines(runs, { repeats, peers, cache, onRecord }) {
  const records = [];
  for (const run of runs) {
    const directory = ensureCheckpoint(run.shape, run.dtype, cache);
    const beside = peers && run.memory === "full";
    const gguf = beside ? ensureGguf(directory, run.shape, run.dtype) : "";
    const spec = { ...run.spec, directory, gguf };
    const ours = [];
    const theirs = [];
    for (let i = 0; i < repeats; ++i) {
      const now = i === 0 ? spec : { ...spec, points: run.repeated };
      ours.push(await measureOnce(OURS, now));
      if (beside) theirs.push(await measureOnce(PEER, now));
    }
    for (const [engine, results] of [
      ["longhaul", ours],
      ["node-llama-cpp", theirs],
    ]) {
      if (results.length === 0) continue;
      const record = merge(run, engine, results);
      if (engine !== "longhaul") record.sameTokens = sameTokens(run, ours[0], theirs[0]);
      records.push(record);
      onRecord(record);
    }
  }
  return records;
}

/**
 * The same run alone and while another process keeps a core busy.
 * @returns {Promise<object>} decode rates of both
 */
export async function runBesideNeighbour(run, { repeats, cache }) {
  const directory = ensureCheckpoint(run.shape, run.dtype, cache);
  const spec = { ...run.spec, directory, gguf: "", points: [run.spec.points[0]] };
  const rates = { alone: [], beside: [] };
  for (let i = 0; i < repeats; ++i) {
    rates.alone.push(...(await measureOnce(OURS, spec)).points[0].decodeTokensPerSecond);
    const neighbour = spawn(process.execPath, ["-e", "for (;;) {}"], { stdio: "ignore" });
    try {
      rates.beside.push(...(await measureOnce(OURS, spec)).points[0].decodeTokensPerSecond);
    } finally {
      neighbour.kill("SIGKILL");
    }
  }
  const { model, dtype, threads } = run;
  const [alone, beside] = [summarise(rates.alone), summarise(rates.beside)];
  return { model, dtype, threads, alone, beside, ratio: beside.median / alone.median };
}
