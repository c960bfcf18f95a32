import { existsSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";

const root = resolve(import.meta.dirname, "../..");

/** A checkpoint of the golden cases that ship with the repository. */
export const fixtureModel = (name: string): string => join(root, "test/fixtures/models", name);

export const fixtureModels = ["llama", "llama_bf16", "llama_hd", "llama_plain", "qwen2", "qwen3", "qwen3_bf16"];

/** The trained model that ships with the repository. */
export const recallModel = join(root, "models/recall-llama");

/** Conversations as that model was trained on, one a line. */
export const recallData = join(root, "test/fixtures/recall/test.jsonl");

/** Data that are not part of the repository: null, with a word on the console, where they are absent. */
export function sharedPath(path: string): string | null {
  const full = join(root, "../shared", path);
  if (existsSync(full)) return full;
  console.log(`${path} is not on this machine: nothing checked against it`);
  return null;
}

// biome-ignore lint/suspicious/noExplicitAny: the tests' own data, checked by the values that are compared.
export const readJson = (...path: string[]): any => JSON.parse(readFileSync(join(...path), "utf8"));

/** An I32 tensor of a safetensors file, read without any code of the package. */
export function readInt32(path: string, name: string): number[] {
  const file = readFileSync(path);
  const headerBytes = Number(file.readBigUInt64LE(0));
  const entry = JSON.parse(file.toString("utf8", 8, 8 + headerBytes))[name];
  const [begin, end] = entry.data_offsets;
  const ids: number[] = [];
  for (let offset = begin; offset < end; offset += 4) ids.push(file.readInt32LE(8 + headerBytes + offset));
  return ids;
}
