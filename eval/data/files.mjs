// Data sets from files that the user has.
import { readdirSync, readFileSync, statSync } from "node:fs";
import path from "node:path";
import { chooseQuestions } from "../../examples/demo/questions.mjs";
import { bareQuestion, INSTRUCTION, promptOf } from "./ask.mjs";
import { invalidData } from "./fields.mjs";
import * as locomo from "./locomo.mjs";
import * as longmemeval from "./longmemeval.mjs";
import * as realtalk from "./realtalk.mjs";

const FORMATS = {
  locomo: { title: "LoCoMo", reader: locomo, scorers: ["locomo-f1", "epicache-f1"] },
  realtalk: { title: "RealTalk", reader: realtalk, scorers: ["locomo-f1", "epicache-f1"] },
  longmemeval: { title: "LongMemEval", reader: longmemeval, scorers: ["epicache-f1"] },
};
export const FORMAT_NAMES = Object.keys(FORMATS);

/** What a string may hold. */
const MAX_BYTES = 2 ** 29 - 2 ** 20;

function filesOf(place) {
  try {
    if (!statSync(place).isDirectory()) return [place];
    const found = readdirSync(place).filter((name) => name.endsWith(".json"));
    if (found.length === 0) throw invalidData(place, "has no file whose name ends in .json");
    return found.sort().map((name) => path.join(place, name));
  } catch (error) {
    if (error.syscall === undefined) throw error;
    throw invalidData(place, `cannot be read (${error.message})`);
  }
}

function parse(file) {
  const { size } = statSync(file);
  if (size > MAX_BYTES) throw invalidData(file, `has ${size} bytes, more than ${MAX_BYTES}: split it`);
  const content = readFileSync(file, "utf8").replace(/^\ufeff/, "");
  try {
    return { content, value: JSON.parse(content) };
  } catch (error) {
    throw invalidData(file, `is not valid JSON: ${error.message}`);
  }
}

/** The format of a file by the fields of its first record. */
function recognise(file, value) {
  const first = Array.isArray(value) ? value[0] : value;
  const name = FORMAT_NAMES.find((candidate) => FORMATS[candidate].reader.recognises(first));
  if (name !== undefined) return name;
  throw invalidData(
    file,
    "is none of LoCoMo (samples with a conversation), RealTalk (a name and sessions) and LongMemEval (questions with haystack_sessions)",
  );
}

/** An answer that only names its option stands for it. */
function meaning({ options }, prediction) {
  const letter = /^\(?([ab])[).]?$/i.exec(prediction.trim())?.[1]?.toLowerCase();
  return options?.[letter] ?? prediction;
}

/**
 * @param {readonly string[]} places files or folders
 * @param {{ format: string, dialogues?: number, questions?: number, seed: number }} options `format` is a name of
 *   FORMAT_NAMES or "auto"; `dialogues` takes the first so many, `questions` so many of each, evenly spread
 */
export function loadFiles(places, { format, dialogues: most, questions: each, seed }) {
  const all = [];
  let leftOut = 0;
  let name = format === "auto" ? undefined : format;
  for (const file of places.flatMap(filesOf)) {
    const { content, value } = parse(file);
    if (Array.isArray(value) && value.length === 0) throw invalidData(file, "is an empty array");
    const found = format === "auto" ? recognise(file, value) : format;
    name ??= found;
    if (found !== name)
      throw invalidData(file, `is ${found}, the files before it are ${name}: one format a run`);
    const read = FORMATS[found].reader.read(file, content, value, seed);
    all.push(...read.dialogues);
    leftOut += read.leftOut;
  }
  const dialogues = all
    .filter(({ questions }) => questions.length > 0)
    .slice(0, most)
    .map((dialogue) => ({
      ...dialogue,
      questions: each === undefined ? dialogue.questions : chooseQuestions(dialogue.questions, each),
      memory: { windows: { split: () => dialogue.utterances } },
      prompt: INSTRUCTION,
    }));
  if (dialogues.length === 0) throw invalidData(places.join(", "), "has no question with an answer");
  const { title, scorers } = FORMATS[name];
  return {
    name: title,
    group: title,
    scorers,
    dialogues,
    leftOut,
    ask: promptOf,
    bare: bareQuestion,
    meaning,
    // A model without a chat format would go on with questions of its own.
    drawing: (chat) => ({ maxTokens: 50, ...(chat ? {} : { stop: "\n" }) }),
  };
}
