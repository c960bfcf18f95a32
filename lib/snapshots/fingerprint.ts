import { createHash } from "node:crypto";
import { access, type FileHandle, open, readFile } from "node:fs/promises";
import { join } from "node:path";
import { corruptFile, isJsonObject, readOptionalJson } from "../text/files.js";

/**
 * What tells one model from another: sha256 over config.json, tokenizer.json and, of every safetensors file, its size and
 * its header (names, dtypes and shapes of the tensors). The weights' numbers are not read, so that a file of many GB costs
 * nothing: two sets of weights of the same shapes are not told apart.
 */
export async function modelFingerprint(directory: string): Promise<string> {
  try {
    return await fingerprint(directory);
  } catch (error) {
    throw corruptFile(directory, "cannot be read again to tell this model from others", error);
  }
}

async function fingerprint(directory: string): Promise<string> {
  const hash = createHash("sha256");
  const add = (name: string, content: Uint8Array) =>
    hash.update(`${JSON.stringify(name)} ${content.byteLength}\n`).update(content);
  for (const name of ["config.json", "tokenizer.json"]) add(name, await readFile(join(directory, name)));
  for (const name of await weightFiles(directory)) {
    const file = await open(join(directory, name), "r");
    try {
      const { size } = await file.stat();
      add(`${name} ${size}`, await safetensorsHeader(file, size));
    } finally {
      await file.close();
    }
  }
  return hash.digest("hex");
}

/** The only file, else the shards that an index names: as the engine takes them, which has checked them all. */
async function weightFiles(directory: string): Promise<string[]> {
  const single = "model.safetensors";
  const found = await access(join(directory, single)).then(
    () => true,
    () => false,
  );
  if (found) return [single];
  const index = await readOptionalJson(join(directory, `${single}.index.json`));
  const map = index?.weight_map;
  return isJsonObject(map) ? [...new Set(Object.values(map) as string[])].sort() : [single];
}

async function safetensorsHeader(file: FileHandle, size: number): Promise<Uint8Array> {
  const length = Buffer.alloc(8);
  await file.read(length, 0, 8, 0);
  const header = Buffer.alloc(Math.min(Number(length.readBigUInt64LE()), size));
  await file.read(header, 0, header.length, 8);
  return header;
}
