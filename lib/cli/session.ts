import type { Answer, AnswerStream, Conversation, Engine } from "../index.js";
import { loadTranscript } from "../transcript.js";
import type { Arguments } from "./arguments.js";
import { readEngineOptions } from "./options.js";
import { dim, note, openProgress } from "./terminal.js";
import { count, formatBytes, formatDuration, formatRate, tokenRate } from "./units.js";

/** Loads MODEL with progress, hands the engine to `work`, and gives its memory back however that ends. */
export async function withEngine<T>(
  values: Arguments,
  signal: AbortSignal,
  work: (engine: Engine) => Promise<T>,
): Promise<T> {
  const options = readEngineOptions(values);
  const model = values.positional("MODEL");
  const { Engine } = await import("../index.js");
  const begin = performance.now();
  const progress = await openProgress("bytes");
  let engine: Engine;
  try {
    engine = await Engine.load(model, {
      ...options,
      signal,
      onProgress: ({ phase, loaded, total }) =>
        progress.update(phase === "download" ? "downloading" : "loading", loaded, total),
    });
  } finally {
    progress.close();
  }
  try {
    const { weights } = engine.memory();
    note(dim(`loaded ${model}: ${formatBytes(weights)} in ${formatDuration(performance.now() - begin)}`));
    return await work(engine);
  } finally {
    await engine.dispose();
  }
}

/** A text file without the line break that editors put at its end: a model would read it as part of the text. */
export function withoutLastBreak(text: string): string {
  return text.replace(/\r?\n$/, "");
}

/** Loads the file of --history as `conversation.ingest` takes it, with the name of its format. */
export async function readHistory(path: string, sample: string | undefined) {
  const transcript = await loadTranscript(path, sample === undefined ? {} : { sample });
  const input = transcript.format === "messages" ? transcript.messages : withoutLastBreak(transcript.text);
  return { format: transcript.format, input };
}

/** Takes a history in with progress; returns how long that took. */
export async function ingestWithProgress(
  conversation: Conversation,
  history: Parameters<Conversation["ingest"]>[0],
  signal: AbortSignal,
): Promise<number> {
  const progress = await openProgress("tokens");
  const begin = performance.now();
  try {
    await conversation.ingest(history, {
      signal,
      onProgress: ({ tokens, total }) => progress.update("reading the history", tokens, total),
    });
  } finally {
    progress.close();
  }
  const elapsed = performance.now() - begin;
  const { tokensSeen } = conversation.memory();
  const rate = tokenRate(tokensSeen, elapsed);
  note(
    dim(
      `read ${count(tokensSeen, "token")} in ${formatDuration(elapsed)}${rate === null ? "" : `, ${formatRate(rate)}`}`,
    ),
  );
  return elapsed;
}

/** What a conversation holds, on one line. */
export function memoryLine(conversation: Conversation): string {
  const { policy, tokensSeen, positions, rows, bytes, peakBytes, reservedBytes, episodes } =
    conversation.memory();
  const heads = rows.flat();
  const least = Math.min(...heads);
  const most = Math.max(...heads);
  const kept = least === most ? `${least}` : `${least} to ${most}`;
  const caches = episodes === undefined ? "" : ` in ${count(episodes.list.length, "episode")}`;
  const packed = positions.packings === 0 ? "" : `, positions packed ${count(positions.packings, "time")}`;
  return (
    `memory (${policy}): ${count(tokensSeen, "token")} seen${packed}, ${kept} rows kept per head${caches}, ` +
    `${formatBytes(bytes)} now, ${formatBytes(peakBytes)} at peak, ${formatBytes(reservedBytes)} reserved`
  );
}

/** Reads an answer to its end; with `echo`, `lead` and its text go to stdout as it comes. */
export async function streamAnswer(stream: AnswerStream, echo: boolean, lead = ""): Promise<Answer> {
  let written = "";
  const write = (text: string) => {
    written = text || written;
    process.stdout.write(text);
  };
  try {
    if (echo) write(lead);
    for await (const { text } of stream) if (echo) write(text);
  } finally {
    if (written !== "" && !written.endsWith("\n")) process.stdout.write("\n");
  }
  return stream.result();
}

/** How an answer came about, on one line. */
export function answerLine({ finishReason, usage, timing }: Answer): string {
  const parts = [count(usage.completionTokens, "token")];
  if (timing.firstTokenMs !== undefined) {
    parts.push(`the first after ${formatDuration(timing.firstTokenMs)}`);
    const rate = tokenRate(usage.completionTokens - 1, timing.totalMs - timing.firstTokenMs);
    if (rate !== null) parts.push(formatRate(rate));
  }
  if (finishReason === "length") parts.push("cut off by --max-tokens or the model's positions");
  return parts.join(", ");
}

/** The one document of --json: lists of numbers on one line, and no digits beyond what was measured unless `exact`. */
export function printJson(document: unknown, { exact = false } = {}): void {
  const rounded = (_key: string, value: unknown) =>
    !exact && typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(6)) : value;
  const text = JSON.stringify(document, rounded, 2);
  process.stdout.write(
    `${text.replace(/\[\n[\s\d.,-]+\]/g, (list) => list.replace(/\s+/g, " ").replace("[ ", "[").replace(" ]", "]"))}\n`,
  );
}
