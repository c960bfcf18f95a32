import { createHash } from "node:crypto";
import { type FileHandle, open, stat } from "node:fs/promises";
import { throwIfAborted } from "../errors.js";
import {
  CHECKSUM_BYTES,
  CHUNK_BYTES,
  corruptSnapshot,
  fileError,
  HEADER_BYTES,
  MAGIC,
  MAX_JSON_BYTES,
  VERSION,
} from "./format.js";

/** A snapshot whose checksum fits, read from its beginning to its end. */
export class SnapshotReader {
  readonly path: string;
  /** What its JSON says, which is not checked any further. */
  readonly json: unknown;
  readonly #file: FileHandle;
  /** Where the next section begins. */
  #at: number;
  readonly #end: number;

  private constructor(path: string, file: FileHandle, json: unknown, begin: number, end: number) {
    this.path = path;
    this.json = json;
    this.#file = file;
    this.#at = begin;
    this.#end = end;
  }

  /** Reads the whole file once to see that it is what was saved. */
  static async open(path: string, signal: AbortSignal): Promise<SnapshotReader> {
    const file = await openFile(path);
    try {
      const { size } = await file.stat();
      const jsonBytes = await readHeader(path, file, size);
      await verify(path, file, size, signal);
      const text = (await readAt(path, file, HEADER_BYTES, jsonBytes)).toString("utf8");
      let json: unknown;
      try {
        json = JSON.parse(text);
      } catch (error) {
        throw corruptSnapshot(path, "its JSON cannot be read", error);
      }
      return new SnapshotReader(path, file, json, HEADER_BYTES + jsonBytes, size - CHECKSUM_BYTES);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** Bytes of the sections that are still to be read. */
  get left(): number {
    return this.#end - this.#at;
  }

  async read(bytes: number): Promise<Uint8Array> {
    if (bytes > this.left) throw corruptSnapshot(this.path, "it ends too early");
    const section = await readAt(this.path, this.#file, this.#at, bytes);
    this.#at += bytes;
    return section;
  }

  /** i32 numbers. */
  async readIntegers(count: number): Promise<Int32Array> {
    // Before the memory for them is there: a count is only as good as the file.
    const bytes = await this.read(4 * count);
    const integers = new Int32Array(count);
    new Uint8Array(integers.buffer).set(bytes);
    return integers;
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}

async function openFile(path: string): Promise<FileHandle> {
  try {
    // Opening a pipe would wait for whoever writes into it.
    if (!(await stat(path)).isFile()) throw new Error("it is not a regular file");
    return await open(path, "r");
  } catch (error) {
    throw fileError(path, "cannot be read", error);
  }
}

async function readHeader(path: string, file: FileHandle, size: number): Promise<number> {
  const header = await readAt(path, file, 0, Math.min(size, HEADER_BYTES));
  if (!header.subarray(0, MAGIC.length).equals(MAGIC))
    throw corruptSnapshot(path, "it is no snapshot of longhaul");
  if (size < HEADER_BYTES + CHECKSUM_BYTES) throw corruptSnapshot(path, "it ends within its header");
  const version = header.readUInt32LE(8);
  if (version !== VERSION) {
    const problem = `it has version ${version} of the format, this longhaul reads version ${VERSION}`;
    throw corruptSnapshot(path, problem);
  }
  const jsonBytes = header.readUInt32LE(12);
  if (jsonBytes > Math.min(size - HEADER_BYTES - CHECKSUM_BYTES, MAX_JSON_BYTES)) {
    throw corruptSnapshot(path, "it is truncated or damaged");
  }
  return jsonBytes;
}

async function verify(path: string, file: FileHandle, size: number, signal: AbortSignal): Promise<void> {
  const hash = createHash("sha256");
  const end = size - CHECKSUM_BYTES;
  for (let at = 0; at < end; at += CHUNK_BYTES) {
    throwIfAborted(signal);
    hash.update(await readAt(path, file, at, Math.min(CHUNK_BYTES, end - at)));
  }
  const checksum = await readAt(path, file, end, CHECKSUM_BYTES);
  if (!checksum.equals(hash.digest()))
    throw corruptSnapshot(path, "its checksum is wrong: it is truncated or damaged");
}

async function readAt(path: string, file: FileHandle, position: number, bytes: number): Promise<Buffer> {
  const buffer = Buffer.allocUnsafe(bytes);
  let filled = 0;
  while (filled < bytes) {
    let read: number;
    try {
      ({ bytesRead: read } = await file.read(buffer, filled, bytes - filled, position + filled));
    } catch (error) {
      throw fileError(path, "cannot be read", error);
    }
    if (read === 0) throw corruptSnapshot(path, "it became shorter while it was read");
    filled += read;
  }
  return buffer;
}
