import { LonghaulError } from "../errors.js";

// A snapshot, all integers little-endian:
//
//     0   8 bytes  "longhaul"
//     8   u32      version of the format
//    12   u32      bytes of the JSON that follows, n
//    16   n bytes  JSON, UTF-8 (state.ts)
//  16+n   ...      for each sequence of the JSON in order: the positions of all its rows (i32, head after head), then keys
//                  and values of one head after the other ([2, rows, head_dim] in the cache's dtype)
//   -32   32       sha256 over everything before

export const MAGIC = Buffer.from("longhaul", "latin1");
/** Changes with every change of what is written: an older or newer file is refused, never guessed at. */
export const VERSION = 2;
export const HEADER_BYTES = 16;
export const CHECKSUM_BYTES = 32;
/** Beyond any conversation's messages; more would only fill the memory. */
export const MAX_JSON_BYTES = 256 * 1024 * 1024;
/** Written, read and hashed at once, so that a large cache does not hold up everything else in the process. */
export const CHUNK_BYTES = 1024 * 1024;

/** The error for a file that is no snapshot, or not any more. */
export function corruptSnapshot(path: string, problem: string, cause?: unknown): LonghaulError {
  const advice = "restore another copy of it, or an older snapshot";
  return new LonghaulError("ERR_CORRUPT_FILE", `${path}: ${problem}; ${advice}`, { cause });
}

/** What an operating system says about a file. */
export function fileError(path: string, what: string, error: unknown): LonghaulError {
  return new LonghaulError("ERR_INVALID_ARGUMENT", `${path}: ${what} (${(error as Error).message})`, {
    cause: error,
  });
}

/** The parts of `bytes`, none larger than a chunk. */
export function* chunksOf(bytes: Uint8Array): Generator<Uint8Array, void> {
  for (let begin = 0; begin < bytes.length; begin += CHUNK_BYTES) {
    yield bytes.subarray(begin, begin + CHUNK_BYTES);
  }
}
