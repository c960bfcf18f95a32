import { createHash } from "node:crypto";
import type { FileHandle } from "node:fs/promises";
import { LonghaulError, throwIfAborted } from "../errors.js";
import { replaceFile } from "../replace-file.js";
import { CHECKSUM_BYTES, chunksOf, fileError, HEADER_BYTES, MAGIC, MAX_JSON_BYTES, VERSION } from "./format.js";

/** Writes a snapshot in the place of `path`, whole or not at all. Resolves with its bytes. */
export async function writeSnapshot(
  path: string,
  json: string,
  sections: AsyncIterable<Uint8Array>,
  signal: AbortSignal,
): Promise<number> {
  try {
    return await replaceFile(path, async (file) => {
      const bytes = await writeAll(file, json, sections, signal);
      throwIfAborted(signal);
      return bytes;
    });
  } catch (error) {
    // What the engine and the signal say is no fault of the file.
    throw error instanceof Error && "syscall" in error ? fileError(path, "cannot be saved", error) : error;
  }
}

async function writeAll(
  file: FileHandle,
  json: string,
  sections: AsyncIterable<Uint8Array>,
  signal: AbortSignal,
): Promise<number> {
  const hash = createHash("sha256");
  let written = 0;
  const write = async (bytes: Uint8Array) => {
    for (const chunk of chunksOf(bytes)) {
      throwIfAborted(signal);
      hash.update(chunk);
      await file.writeFile(chunk);
    }
    written += bytes.length;
  };
  const text = Buffer.from(json, "utf8");
  if (text.length > MAX_JSON_BYTES) {
    const limit = `more than the ${MAX_JSON_BYTES} that a snapshot holds`;
    throw new LonghaulError(
      "ERR_UNSUPPORTED",
      `the conversation's messages take ${text.length} bytes, ${limit}`,
    );
  }
  const header = Buffer.alloc(HEADER_BYTES);
  MAGIC.copy(header);
  header.writeUInt32LE(VERSION, 8);
  header.writeUInt32LE(text.length, 12);
  await write(header);
  await write(text);
  for await (const section of sections) await write(section);
  await file.writeFile(hash.digest());
  return written + CHECKSUM_BYTES;
}
