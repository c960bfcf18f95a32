import { createHash, randomBytes } from "node:crypto";
import { type FileHandle, open, rename, unlink } from "node:fs/promises";
import { dirname, join } from "node:path";
import { LonghaulError, throwIfAborted } from "../errors.js";
import { CHECKSUM_BYTES, chunksOf, fileError, HEADER_BYTES, MAGIC, MAX_JSON_BYTES, VERSION } from "./format.js";

/**
 * Writes a snapshot so that `path` is, whatever happens, the file that was there before or the whole new one: under
 * another name in the same folder, and renamed once it is on the disk. Resolves with its bytes.
 */
export async function writeSnapshot(
  path: string,
  json: string,
  sections: AsyncIterable<Uint8Array>,
  signal: AbortSignal,
): Promise<number> {
  const folder = dirname(path);
  // A crash leaves such a file behind, which nothing ever reads.
  const temporary = join(folder, `.longhaul-${randomBytes(8).toString("hex")}.tmp`);
  // Opened first: behind the renaming nothing may fail but the disk.
  const folderHandle = await attempt(path, open(folder, "r"));
  try {
    const bytes = await writeFile(temporary, path, json, sections, signal);
    await attempt(path, syncFolder(folderHandle));
    return bytes;
  } finally {
    await folderHandle.close();
  }
}

/** Leaves the new file at `path`, or nothing of it. */
async function writeFile(
  temporary: string,
  path: string,
  json: string,
  sections: AsyncIterable<Uint8Array>,
  signal: AbortSignal,
): Promise<number> {
  const file = await attempt(path, open(temporary, "wx"));
  try {
    let bytes: number;
    try {
      bytes = await writeAll(path, file, json, sections, signal);
      await attempt(path, file.sync());
    } finally {
      await file.close();
    }
    throwIfAborted(signal);
    await attempt(path, rename(temporary, path));
    return bytes;
  } catch (error) {
    await unlink(temporary).catch(() => {});
    throw error;
  }
}

/** A name is on the disk once its folder is. Some file systems know no such thing. */
async function syncFolder(folder: FileHandle): Promise<void> {
  try {
    await folder.sync();
  } catch (error) {
    if (!["EINVAL", "ENOTSUP"].includes((error as NodeJS.ErrnoException).code ?? "")) throw error;
  }
}

async function writeAll(
  path: string,
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
      await attempt(path, file.writeFile(chunk));
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
  await attempt(path, file.writeFile(hash.digest()));
  return written + CHECKSUM_BYTES;
}

async function attempt<T>(path: string, operation: Promise<T>): Promise<T> {
  try {
    return await operation;
  } catch (error) {
    throw fileError(path, "cannot be saved", error);
  }
}
