import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { expect } from "vitest";
import { type Answer, type AnswerStream, Engine, type LoadOptions, LonghaulError } from "../../lib/index.js";

export const root = resolve(import.meta.dirname, "../..");
export const fixtures = join(root, "test/fixtures/models");
export const recall = join(root, "models/recall-llama");

/** Loads a model with a small pool. */
export const load = (model: string, options: LoadOptions = {}): Promise<Engine> =>
  Engine.load(model, { kvBytes: "32MiB", ...options });

/** A tensor of a safetensors file, read without any code of the package. */
export function readTensor(path: string, name: string): Float32Array | Int32Array {
  const file = readFileSync(path);
  const header = Number(file.readBigUInt64LE(0));
  const { dtype, data_offsets } = JSON.parse(file.toString("utf8", 8, 8 + header))[name];
  const bytes = file.buffer.slice(
    file.byteOffset + 8 + header + data_offsets[0],
    file.byteOffset + 8 + header + data_offsets[1],
  );
  return dtype === "I32" ? new Int32Array(bytes) : new Float32Array(bytes);
}

/** The largest |actual - expected| / (abs + rel |expected|); at most 1 passes. */
export function worstError(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  { abs = 0, rel = 0 }: { abs?: number; rel?: number },
): number {
  expect(actual.length).toBe(expected.length);
  let worst = 0;
  for (let i = 0; i < expected.length; i++) {
    const wanted = expected[i] as number;
    const error = Math.abs((actual[i] as number) - wanted) / (abs + rel * Math.abs(wanted));
    worst = error <= worst ? worst : error;
  }
  return worst;
}

/** What a promise rejects with; fails when it does not. */
export async function rejection(promise: Promise<unknown>): Promise<unknown> {
  const outcome = await promise.then(
    (value) => ({ value }),
    (error: unknown) => ({ error }),
  );
  if ("value" in outcome) throw new Error(`did not reject but gave ${JSON.stringify(outcome.value)}`);
  return outcome.error;
}

export async function expectError(promise: Promise<unknown>, code: string, message: RegExp): Promise<void> {
  const error = await rejection(promise);
  expect(error).toBeInstanceOf(LonghaulError);
  expect(error).toMatchObject({ code, message: expect.stringMatching(message) });
}

/** The text of an answer's chunks, read as a user would. */
export async function textOf(stream: AnswerStream): Promise<string> {
  let text = "";
  for await (const chunk of stream) text += chunk.text;
  return text;
}

export const answerOf = async (stream: AnswerStream): Promise<Answer> => stream.result();

/** A conversation that recall-llama was made for, with questions about it. */
export interface RecallDialogue {
  readonly tokens: number;
  readonly text: string;
  readonly questions: readonly { readonly question: string; readonly answer: string }[];
}

/** The first conversation of the recall fixtures with at least `tokens` tokens. */
export function recallDialogue(tokens: number): RecallDialogue {
  const lines = readFileSync(join(root, "test/fixtures/recall/test.jsonl"), "utf8").trim().split("\n");
  const found = lines.map((line) => JSON.parse(line)).find((dialogue) => dialogue.tokens >= tokens);
  const questions = found.questions.map((entry: { question: string; answer: string }) => {
    const [, subject] = /^user : (.*) \? assistant/.exec(entry.question) ?? [];
    return { question: `${subject} ?`, answer: `${subject} is ${entry.answer}` };
  });
  return { tokens: found.tokens, text: found.turns.join(" "), questions };
}
