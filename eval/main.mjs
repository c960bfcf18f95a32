// `npm run eval`: what a model answers about long conversations under each memory, or how long a conversation takes.
import { closeSync, mkdirSync, openSync, writeFileSync, writeSync } from "node:fs";
import path from "node:path";
import { Engine } from "longhaul";
import { describeMachine, loadAverage, slug } from "../bench/machine.mjs";
import { loadFiles } from "./data/files.mjs";
import { generateData } from "./data/generated.mjs";
import { Interrupted, interruptSignal } from "./interrupt.mjs";
import { readOptions, root, USAGE } from "./options.mjs";
import { Progress } from "./progress.mjs";
import { renderScores } from "./report/scores-page.mjs";
import { scoresTable, turnsTable } from "./report/terminal.mjs";
import { scoreText } from "./report/text.mjs";
import { renderTurns } from "./report/turns-page.mjs";
import { evaluate } from "./run.mjs";
import { spreadOf } from "./turns/account.mjs";
import { runTurns } from "./turns/run.mjs";
import { UsageError } from "./usage.mjs";

/** Full KV, and every other policy with every budget. */
function runsOf({ policies, budgets }) {
  const full = policies.filter(({ policy }) => policy === "full");
  const bounded = policies.filter(({ policy }) => policy !== "full");
  return [
    ...(full.length > 0 ? full : [{ name: "full", policy: "full", options: {} }]),
    ...bounded.flatMap((chosen) => budgets.map((budget) => ({ ...chosen, budget }))),
  ];
}

/** Embeds texts of a data set, questions without what every question is told. Generated dialogues bring their own. */
function embedderOf({ mode, pooling }, { bare }, engine, encoder) {
  if (encoder === undefined && mode !== "files") return undefined;
  return (texts) => (encoder ?? engine).embed(texts.map(bare), { pooling });
}

/** A model reads generated dialogues only if it knows their words. */
function requireLanguage(engine, { dialogues: [{ text }] }) {
  if (engine.tokenizer.encode(text).length === text.split(" ").length + 1) return;
  throw new UsageError(
    "the generated dialogues are in the language of models/recall-llama, which --model does not speak: give --data",
  );
}

async function withEngine(model, options, work) {
  const engine = await Engine.load(model, options);
  try {
    return await work(engine);
  } finally {
    await engine.dispose();
  }
}

async function withEmbedder(options, signal, work) {
  if (options.embedder === undefined) return work(undefined);
  return withEngine(options.embedder, { ...options.engine, signal }, work);
}

/** What is asked about; read before a model is loaded, as that takes longer than finding a mistake. */
function dataSets(options) {
  if (options.mode === "turns") return [];
  if (options.mode === "files") return [loadFiles(options.data, options)];
  const { tokens, dialogues, questions, seed } = options;
  return tokens.map((length) => generateData({ tokens: length, dialogues, questions, seed }));
}

async function score(options, sets, { engine, encoder, signal, progress }) {
  if (options.mode === "scores") requireLanguage(engine, sets[0]);
  const runs = runsOf(options);
  const answers = options.answers === undefined ? undefined : openSync(options.answers, "w");
  const results = [];
  try {
    for (const data of sets) {
      const embed = embedderOf(options, data, engine, encoder);
      for (const [index, chosen] of runs.entries()) {
        const name = `${chosen.name}${chosen.budget === undefined ? "" : ` ${chosen.budget}`}`;
        const place = `${data.group}, ${name} (${index + 1} of ${runs.length})`;
        const row = await evaluate(engine, data, chosen, {
          block: options.block,
          tail: options.tail,
          ...(embed === undefined ? {} : { embed }),
          signal,
          onQuestion: (dialogue, question) =>
            progress.now(
              `${place}: conversation ${dialogue + 1} of ${data.dialogues.length}, question ${question + 1}`,
            ),
          onAnswer: (record) => {
            if (answers === undefined) return;
            const { name, budget = null } = chosen;
            writeSync(answers, `${JSON.stringify({ group: data.group, policy: name, budget, ...record })}\n`);
          },
        });
        results.push(row);
        progress.done(`${place}: ${Object.values(row.scores).map(scoreText).join(", ")}`);
      }
    }
  } catch (error) {
    // What was finished took its time.
    if (error instanceof Interrupted && results.length > 0) {
      progress.clear();
      console.log(scoresTable({ data: sets[0], results }));
    }
    throw error;
  } finally {
    if (answers !== undefined) closeSync(answers);
  }
  const { name, scorers, leftOut, categories } = sets[0];
  return { kind: "scores", data: { name, scorers, leftOut, categories }, results };
}

async function converse(options, { engine, encoder, signal, progress }) {
  const { turns, switches, seed, block, tail, pooling } = options;
  const embed = encoder && ((texts) => encoder.embed(texts, { pooling }));
  const before = loadAverage();
  const measured = await runTurns(engine, runsOf(options), {
    tokens: options.tokens[0],
    turns,
    switches,
    seed,
    block,
    tail,
    ...(embed === undefined ? {} : { embed }),
    signal,
    onSetUp: (name) => progress.now(`taking the history in: ${name}`),
    onTurn: (done) => progress.now(`turn ${done + 1} of ${turns}`),
  });
  const series = measured.series.map((one) => ({ ...one, turn: spreadOf(one.turnMs) }));
  return { kind: "turns", loadAverage: { before, after: loadAverage() }, ...measured, series };
}

/** What a reader must know to run it again. */
function settingsOf(options) {
  const { mode, seed, block, tail, tokens, dialogues, questions, turns, switches, embedder, pooling } = options;
  const common = { block, tail, threads: options.engine.threads ?? "all" };
  const embedding = embedder === undefined ? {} : { embedder: path.basename(embedder), pooling };
  if (mode === "turns") return { ...common, ...embedding, seed, tokens: tokens[0], turns, switches };
  const each = { dialogues: dialogues ?? "all", questions: questions ?? "all", seed };
  return { ...common, ...embedding, ...each, ...(mode === "files" ? {} : { tokens }) };
}

function modelOf(engine, name) {
  const { architecture, device, dtype, layers, heads, kvHeads, headDim, maxPositions } = engine.info();
  return { name, architecture, device: device.name, dtype, layers, heads, kvHeads, headDim, maxPositions };
}

/** Six digits are more than was measured; lists of numbers stand on one line. */
function jsonOf(result) {
  const rounded = (_key, value) =>
    typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(6)) : value;
  const text = JSON.stringify(result, rounded, 1);
  return `${text.replace(/\[\n[\s\d.,e+-]+\]/g, (list) => list.replace(/\s+/g, ""))}\n`;
}

function write(options, result) {
  const data = result.kind === "turns" ? `${options.turns}-turns` : slug(result.data.name);
  const name = `${result.date.slice(0, 10)}-${slug(options.modelName)}-${data}.json`;
  const file = path.resolve(options.json ?? path.join(root, "eval", "results", name));
  const page = file.replace(/(\.json)?$/, ".html");
  mkdirSync(path.dirname(file), { recursive: true });
  writeFileSync(file, jsonOf(result));
  writeFileSync(page, result.kind === "turns" ? renderTurns(result) : renderScores(result));
  console.log(`\n${path.relative(process.cwd(), file)}\n${path.relative(process.cwd(), page)}`);
}

async function main(progress) {
  const options = readOptions(process.argv.slice(2));
  if (options.help) return process.stdout.write(USAGE);
  const sets = dataSets(options);
  const signal = interruptSignal();
  const result = await withEngine(options.model, { ...options.engine, signal }, (engine) =>
    withEmbedder(options, signal, async (encoder) => {
      const means = { engine, encoder, signal, progress };
      const about = {
        date: new Date().toISOString(),
        machine: describeMachine(),
        model: modelOf(engine, options.modelName),
        settings: settingsOf(options),
      };
      const measured = options.mode === "turns" ? converse(options, means) : score(options, sets, means);
      return { ...about, ...(await measured) };
    }),
  );
  progress.clear();
  console.log(result.kind === "turns" ? turnsTable(result) : scoresTable(result));
  write(options, result);
}

const progress = new Progress();
main(progress).catch((error) => {
  progress.clear();
  process.stderr.write(`eval: ${error.code ? `${error.code}: ` : ""}${error.message}\n`);
  process.exitCode = error instanceof UsageError ? 2 : (error.exitCode ?? 1);
});
