import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { readFile, stat } from "node:fs/promises";
import { LonghaulError } from "../errors.js";

/** A parsed JSON object whose members are not yet trusted. */
export type JsonObject = { [key: string]: unknown };

/** The largest tokenizer known is about 40 MB: a file beyond this is not one, and would only fill the memory. */
const MAX_FILE_BYTES = 256 * 1024 * 1024;

export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The error for a model file that cannot be used: the path, what is wrong, and what to do about it. */
export function corruptFile(path: string, problem: string, cause?: unknown): LonghaulError {
  const detail = cause instanceof Error ? ` (${cause.message})` : "";
  const advice = "download the model again, or report it to the model's author";
  return new LonghaulError("ERR_CORRUPT_FILE", `${path}: ${problem}${detail}; ${advice}`, { cause });
}

/** Reads a UTF-8 file; null when it does not exist. Any other failure is an ERR_CORRUPT_FILE naming the path. */
export async function readOptionalText(path: string): Promise<string | null> {
  try {
    const { size } = await stat(path);
    if (size > MAX_FILE_BYTES)
      throw new Error(`${size} bytes, more than the ${MAX_FILE_BYTES} a text file may have`);
    return await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw corruptFile(path, "cannot be read", error);
  }
}

/** The bytes of a file, chunk after chunk; each is valid until the next one is asked for. */
export function* readChunks(path: string): Generator<Uint8Array, void> {
  let file: number | undefined;
  try {
    file = openSync(path, "r");
    const { size } = fstatSync(file);
    if (size > MAX_FILE_BYTES)
      throw new Error(`${size} bytes, more than the ${MAX_FILE_BYTES} a text file may have`);
    const buffer = new Uint8Array(64 * 1024);
    for (let bytes = readSync(file, buffer); bytes > 0; bytes = readSync(file, buffer)) {
      yield buffer.subarray(0, bytes);
    }
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === "ENOENT";
    throw missing ? corruptFile(path, "does not exist") : corruptFile(path, "cannot be read", error);
  } finally {
    if (file !== undefined) closeSync(file);
  }
}

/** Reads a JSON file whose root must be an object; null when the file does not exist. */
export async function readOptionalJson(path: string): Promise<JsonObject | null> {
  const text = await readOptionalText(path);
  return text === null ? null : parseJsonObject(path, text);
}

/** Parses `text`, the content of `path`, whose root must be an object. */
export function parseJsonObject(path: string, text: string): JsonObject {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw corruptFile(path, "is not valid JSON", error);
  }
  if (!isJsonObject(value)) throw corruptFile(path, "must hold a JSON object");
  return value;
}
