import { readFile } from "node:fs/promises";
import { describeValue, LonghaulError } from "./errors.js";
import type { Message } from "./text/chat-template.js";

/** One thing that somebody said. */
export interface Utterance {
  readonly speaker: string;
  readonly text: string;
  /** When it was said, in the file's own words. */
  readonly date?: string;
}

/** A question that comes with a transcript, as in LoCoMo. */
export interface TranscriptQuestion {
  readonly question: string;
  /** Absent where the data have none (LoCoMo's category 5 asks for what was never said). */
  readonly answer?: string;
  readonly category?: number;
}

/** A conversation history from a file. */
export type Transcript =
  | { readonly format: "messages"; readonly messages: readonly Message[]; readonly text: string }
  | {
      readonly format: "dialogue";
      readonly id: string;
      readonly utterances: readonly Utterance[];
      readonly questions: readonly TranscriptQuestion[];
      readonly text: string;
    }
  | { readonly format: "text"; readonly text: string };

/** Which part of a file to load. */
export interface TranscriptOptions {
  /** For files with several dialogues (LoCoMo): a sample's `sample_id`, or its index from 0. Default: the first. */
  readonly sample?: string | number;
}

/**
 * Loads a history: a JSON array of `{ role, content }` or `{ messages: [...] }`, JSON lines of such messages, a
 * dialogue in LoCoMo's format (one sample or an array of them), or plain text. `text` is always the whole history as
 * one text. What looks like JSON but does not fit raises ERR_INVALID_ARGUMENT with file, index and field.
 */
export async function loadTranscript(path: string, options: TranscriptOptions = {}): Promise<Transcript> {
  let content: string;
  try {
    content = await readFile(path, "utf8");
  } catch (error) {
    throw new LonghaulError("ERR_INVALID_ARGUMENT", `${path}: cannot be read (${(error as Error).message})`, {
      cause: error,
    });
  }
  return parseTranscript(content, path, options);
}

/** `loadTranscript` for a text in memory; `path` only names it in errors. */
export function parseTranscript(content: string, path: string, options: TranscriptOptions = {}): Transcript {
  const text = content.replace(/^\ufeff/, "");
  const trimmed = text.trim();
  if (trimmed === "") throw invalid(path, "the file is empty");
  const first = trimmed[0];
  const claimsJson = /\.jsonl?$|\.ndjson$/i.test(path);
  if (first !== "{" && first !== "[") {
    if (claimsJson) throw invalid(path, "must begin with { or [, as its name says that it is JSON");
    return { format: "text", text };
  }
  const whole = tryParse(trimmed);
  if (whole.error === null) return fromJson(path, whole.value, options);
  if (first === "{" && (trimmed.includes("\n") || /l$/i.test(path)))
    return fromMessages(path, parseLines(path, text));
  // "[Monday] Anna: ..." is a fair beginning of a plain text.
  if (claimsJson || first === "{") throw invalid(path, `is not valid JSON: ${whole.error.message}`);
  return { format: "text", text };
}

type Fields = { readonly [key: string]: unknown };

function fromJson(path: string, value: unknown, { sample }: TranscriptOptions): Transcript {
  if (isFields(value)) {
    if (value.messages !== undefined) {
      if (Array.isArray(value.messages)) return fromMessages(path, value.messages, "messages");
      throw invalid(path, "messages must be an array", value.messages);
    }
    if (value.conversation !== undefined) return fromLocomo(path, selectSample(path, [value], sample), "");
    if (value.role !== undefined) return fromMessages(path, [value]);
    throw invalid(path, "has neither messages nor a conversation");
  }
  if (!Array.isArray(value) || value.length === 0) throw invalid(path, "must hold at least one message", value);
  if (isFields(value[0]) && value[0].conversation !== undefined) {
    const chosen = selectSample(path, value, sample);
    return fromLocomo(path, chosen, `[${value.indexOf(chosen)}]`);
  }
  return fromMessages(path, value);
}

function parseLines(path: string, text: string): unknown[] {
  const messages: unknown[] = [];
  for (const [index, line] of text.split("\n").entries()) {
    if (line.trim() === "") continue;
    const parsed = tryParse(line);
    if (parsed.error !== null)
      throw invalid(path, `line ${index + 1} is not valid JSON: ${parsed.error.message}`);
    messages.push(parsed.value);
  }
  return messages;
}

function fromMessages(path: string, entries: readonly unknown[], where = ""): Transcript {
  if (entries.length === 0) throw invalid(path, "must hold at least one message");
  const messages = entries.map((entry, index): Message => {
    const at = `${where}[${index}]`;
    if (!isFields(entry)) throw invalid(path, `${at} must be an object with role and content`, entry);
    const role = requireText(path, `${at}.role`, entry.role);
    const content = requireText(path, `${at}.content`, entry.content, true);
    return entry.name === undefined
      ? { role, content }
      : { role, content, name: requireText(path, `${at}.name`, entry.name) };
  });
  return {
    format: "messages",
    messages,
    text: messages.map(({ role, content }) => `${role}: ${content}`).join("\n"),
  };
}

function selectSample(path: string, samples: readonly unknown[], wanted: string | number | undefined): unknown {
  if (wanted === undefined) return samples[0];
  const index = typeof wanted === "number" ? wanted : /^\d+$/.test(wanted) ? Number(wanted) : -1;
  const named = samples.find((sample) => isFields(sample) && sample.sample_id === wanted);
  const chosen = named ?? samples[index];
  if (chosen !== undefined) return chosen;
  const ids = samples.map((sample) => (isFields(sample) ? String(sample.sample_id) : "?")).join(", ");
  throw invalid(path, `has no sample ${describeValue(wanted)}; it has ${ids}`);
}

/** LoCoMo (Maharana et al. 2024): `conversation` has session_1, session_2, ... with a session_N_date_time each. */
function fromLocomo(path: string, sample: unknown, where: string): Transcript {
  if (!isFields(sample)) throw invalid(path, `${where} must be an object`, sample);
  const { conversation, qa = [] } = sample;
  if (!isFields(conversation)) throw invalid(path, `${where}.conversation must be an object`, conversation);
  const speakers = ["speaker_a", "speaker_b"].map((key) =>
    requireText(path, `${where}.conversation.${key}`, conversation[key]),
  );
  const sessions = Object.keys(conversation)
    .map((key) => /^session_(\d+)$/.exec(key)?.[1])
    .filter((number) => number !== undefined)
    .sort((a, b) => Number(a) - Number(b));

  const utterances: Utterance[] = [];
  const parts = [
    `Below is a conversation between ${speakers.join(" and ")}. It takes place over several days.\n`,
  ];
  for (const number of sessions) {
    const at = `${where}.conversation.session_${number}`;
    const turns = conversation[`session_${number}`];
    const date = requireText(path, `${at}_date_time`, conversation[`session_${number}_date_time`]);
    if (!Array.isArray(turns)) throw invalid(path, `${at} must be an array`, turns);
    parts.push(`\nDATE: ${date}\nCONVERSATION:\n`);
    for (const [index, turn] of turns.entries()) {
      if (!isFields(turn)) throw invalid(path, `${at}[${index}] must be an object`, turn);
      const speaker = requireText(path, `${at}[${index}].speaker`, turn.speaker);
      const said = requireText(path, `${at}[${index}].text`, turn.text, true);
      const caption = turn.blip_caption;
      const shared =
        caption === undefined
          ? ""
          : ` and shared ${requireText(path, `${at}[${index}].blip_caption`, caption)}.`;
      utterances.push({
        speaker,
        text: shared === "" ? said : `${said} (${speaker} shared ${caption}.)`.trim(),
        date,
      });
      parts.push(`${speaker} said, "${said}"${shared}\n`);
    }
  }
  if (utterances.length === 0) throw invalid(path, `${where}.conversation has no session with a turn`);
  const id = sample.sample_id === undefined ? "0" : requireText(path, `${where}.sample_id`, sample.sample_id);
  return {
    format: "dialogue",
    id,
    utterances,
    questions: readQuestions(path, qa, `${where}.qa`),
    text: parts.join(""),
  };
}

function readQuestions(path: string, qa: unknown, where: string): TranscriptQuestion[] {
  if (!Array.isArray(qa)) throw invalid(path, `${where} must be an array`, qa);
  return qa.map((entry: unknown, index) => {
    if (!isFields(entry)) throw invalid(path, `${where}[${index}] must be an object`, entry);
    const question = requireText(path, `${where}[${index}].question`, entry.question);
    const { answer, category } = entry;
    const known = typeof answer === "string" || typeof answer === "number";
    if (!known && answer !== undefined)
      throw invalid(path, `${where}[${index}].answer must be text or a number`, answer);
    return {
      question,
      ...(known ? { answer: String(answer) } : {}),
      ...(typeof category === "number" ? { category } : {}),
    };
  });
}

function requireText(path: string, field: string, value: unknown, allowEmpty = false): string {
  if (typeof value === "string" && (allowEmpty || value !== "")) return value;
  throw invalid(path, `${field} must be text`, value);
}

function invalid(path: string, problem: string, ...value: [] | [unknown]): LonghaulError {
  const got = value.length === 0 ? "" : `, got ${describeValue(value[0])}`;
  return new LonghaulError("ERR_INVALID_ARGUMENT", `${path}: ${problem}${got}`);
}

function tryParse(text: string): { value: unknown; error: null } | { error: Error } {
  try {
    return { value: JSON.parse(text), error: null };
  } catch (error) {
    return { error: error as Error };
  }
}

function isFields(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
