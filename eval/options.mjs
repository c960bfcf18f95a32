// The command line of `npm run eval`.
import { existsSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { FORMAT_NAMES } from "./data/files.mjs";
import { allPolicies, readPolicies } from "./policies.mjs";
import { UsageError } from "./usage.mjs";

export const root = fileURLToPath(new URL("..", import.meta.url));
const RECALL = path.join(root, "models", "recall-llama");

export const USAGE = `npm run eval -- [options]: what a model answers about long conversations in little memory

  --model MODEL      a directory, or a name on the hub; default models/recall-llama, a small model of this repository
  --data PATH        a file or folder in the format of LoCoMo, RealTalk or LongMemEval; may be repeated. Default:
                     generated dialogues, whose answers are known exactly
  --format NAME      of the data: ${FORMAT_NAMES.join(", ")}; default auto
  --policies A,B     default all of them, with --turns keydiff,epicache. Options of a policy stand behind it:
                     epicache:episodes=8:match=dot. Full KV is always the first row
  --budgets N,M      rows kept per KV head and layer; default 64,128,256,512, with --data 2048,4096,6144,8192, with
                     --turns 256
  --dialogues N      how many; default 32, with --data all of them
  --questions N      about each, evenly spread over it; default 20, with --data all of them
  --tokens N,M       length of generated dialogues; default 1024, with --turns 2048
  --seed N           of generated dialogues; default 9000

  --turns N          instead: one conversation of so many turns, and how long each takes, beside full KV
  --switches SHARE   how often a turn goes over to another topic; default 0.3

  --block N          tokens of one prefill pass; default 128, with --data 2048
  --tail N           rows for questions and answers on top of the budget; default 64, with --turns or --data 512
  --embedder MODEL   another model that embeds windows and questions for epicache
  --pooling NAME     of the embedder's vectors: mean (default) or last, which Qwen3-Embedding wants
  --device NAME      auto (default), cpu, cuda:N, reference
  --threads N        default one per available core
  --kv SIZE          of the KV pool, such as 8GiB; full KV of a long history may need it

  --json FILE        the result, with the page beside it; default eval/results/<date>-<model>-<data>.json
  --answers FILE     every answer with its scores, as JSON lines
  --help
`;

const BUDGETS = { scores: "64,128,256,512", files: "2048,4096,6144,8192", turns: "256" };

const NAMES = [
  "model",
  "format",
  "policies",
  "budgets",
  "dialogues",
  "questions",
  "tokens",
  "seed",
  "turns",
  "switches",
  "block",
  "tail",
  "embedder",
  "pooling",
  "device",
  "threads",
  "kv",
  "json",
  "answers",
];

function integer(name, text, min) {
  if (/^\d+$/.test(text) && Number(text) >= min) return Number(text);
  throw new UsageError(`--${name} must be an integer of at least ${min}, got "${text}"`);
}

function oneOf(name, text, values) {
  if (values.includes(text)) return text;
  throw new UsageError(`--${name} must be one of ${values.join(", ")}, got "${text}"`);
}

function share(name, text) {
  const value = text.trim() === "" ? Number.NaN : Number(text);
  if (value >= 0 && value <= 1) return value;
  throw new UsageError(`--${name} must be a number from 0 to 1, got "${text}"`);
}

/** Options that mean nothing beside others would be ignored without a word. */
function refuseUseless(values, mode) {
  const useless = {
    scores: ["switches"],
    files: ["switches", "tokens"],
    turns: ["data", "format", "dialogues", "questions", "answers"],
  }[mode];
  const given = useless.find((name) => values[name] !== undefined);
  if (given !== undefined) {
    const place = { scores: "without --turns", files: "with --data", turns: "with --turns" }[mode];
    throw new UsageError(`--${given} means nothing ${place}`);
  }
}

function policiesOf(text, mode) {
  if (text !== undefined) return readPolicies(text);
  return mode === "turns" ? readPolicies("keydiff,epicache") : allPolicies();
}

export function readOptions(argv) {
  const options = Object.fromEntries(NAMES.map((name) => [name, { type: "string" }]));
  let values;
  try {
    const spec = {
      ...options,
      data: { type: "string", multiple: true },
      help: { type: "boolean", short: "h" },
    };
    ({ values } = parseArgs({ args: argv, options: spec }));
  } catch (error) {
    throw new UsageError(error.message.split("\n")[0]);
  }
  if (values.help) return { help: true };
  const mode = values.turns !== undefined ? "turns" : values.data !== undefined ? "files" : "scores";
  refuseUseless(values, mode);
  const files = mode === "files";
  const count = (name, min, fallback) =>
    values[name] === undefined ? fallback : integer(name, values[name], min);
  const counts = (name, min, fallback) => [
    ...new Set((values[name] ?? fallback).split(",").map((text) => integer(name, text, min))),
  ];
  const tokens = counts("tokens", 64, mode === "turns" ? "2048" : "1024");
  if (mode === "turns" && tokens.length > 1) throw new UsageError("--turns takes one length in --tokens");
  const model = values.model ?? RECALL;
  return {
    mode,
    model,
    modelName: existsSync(model) ? path.basename(path.resolve(model)) : model,
    data: values.data ?? [],
    format: oneOf("format", values.format ?? "auto", ["auto", ...FORMAT_NAMES]),
    policies: policiesOf(values.policies, mode),
    budgets: counts("budgets", 1, BUDGETS[mode]),
    dialogues: count("dialogues", 1, files ? undefined : 32),
    questions: count("questions", 1, files ? undefined : 20),
    tokens,
    seed: count("seed", 0, 9000),
    turns: count("turns", 1, undefined),
    switches: share("switches", values.switches ?? "0.3"),
    block: count("block", 1, files ? 2048 : 128),
    tail: count("tail", 1, mode === "scores" ? 64 : 512),
    embedder: values.embedder,
    pooling: oneOf("pooling", values.pooling ?? "mean", ["mean", "last"]),
    engine: {
      ...(values.device === undefined ? {} : { device: values.device }),
      ...(values.threads === undefined ? {} : { threads: integer("threads", values.threads, 1) }),
      ...(values.kv === undefined ? {} : { kvBytes: values.kv }),
    },
    json: values.json,
    answers: values.answers,
  };
}
