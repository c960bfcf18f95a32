import { invalidOption, requireInteger, requireOneOf } from "../errors.js";
import type { KernelInputs, KernelOutputs } from "../native.js";
import { output, requireArray, requireIndices, requirePositive, rowsOf } from "./call.js";

/** Keys and values of one layer, which an op gets in a paged cache made for the call. */
export interface CacheRows {
  /** [rows, kvHeads, headDim] */
  readonly k: Float32Array;
  /** [rows, kvHeads, headDim] */
  readonly v: Float32Array;
  readonly kvHeads: number;
  readonly headDim: number;
  /** [rows] Default: 0, 1, 2, ... */
  readonly positions?: readonly number[] | Int32Array;
  /** [kvHeads] Head h holds only its first lengths[h] rows. Default: all. */
  readonly lengths?: readonly number[] | Int32Array;
  /** The type in which the cache stores keys and values. Default "f32". */
  readonly dtype?: "f32" | "bf16" | "f16";
}

/** What a cache holds after an op: one entry a KV head, oldest row first. */
export interface HeldRows {
  /** Each [rows of the head, headDim]. */
  readonly k: Float32Array[];
  readonly v: Float32Array[];
  readonly positions: Int32Array[];
}

/** A cache's inputs, its number of rows, and the rows of each head. */
export function cacheInputs(cache: CacheRows): { inputs: KernelInputs; rows: number; lengths: Int32Array } {
  const { k, v } = cache;
  const kvHeads = requirePositive("kvHeads", cache.kvHeads);
  const headDim = requirePositive("headDim", cache.headDim);
  const rows = rowsOf("k", requireArray("k", k, Float32Array), kvHeads * headDim);
  requireArray("v", v, Float32Array, k.length);
  const positions = requireIndices(
    "positions",
    cache.positions ?? Array.from({ length: rows }, (_, row) => row),
    rows,
  );
  const lengths = requireIndices("lengths", cache.lengths ?? Array(kvHeads).fill(rows), kvHeads);
  for (const [head, length] of lengths.entries()) requireInteger(`lengths[${head}]`, length, 0, rows);
  const kvDtype = requireOneOf("dtype", cache.dtype ?? "f32", ["f32", "bf16", "f16"]);
  return { inputs: { k, v, kvHeads, headDim, rows, positions, lengths, kvDtype }, rows, lengths };
}

/** The queries of an op on a cache: [queries, heads, headDim]. */
export function queryInputs(
  { q, heads, scale }: { readonly q: Float32Array; readonly heads: number; readonly scale?: number },
  cache: CacheRows,
): KernelInputs {
  const count = requirePositive("heads", heads);
  if (count % cache.kvHeads !== 0) {
    throw invalidOption("heads", `a multiple of kvHeads (${cache.kvHeads})`, heads);
  }
  const queries = rowsOf("q", requireArray("q", q, Float32Array), count * cache.headDim);
  return { q, heads: count, queries, scale: scale ?? 1 / Math.sqrt(cache.headDim) };
}

export function heldRows(outputs: KernelOutputs, headDim: number): HeldRows {
  const lengths = output<Int32Array>(outputs, "lengths");
  return {
    k: splitHeads(output(outputs, "k"), lengths, headDim),
    v: splitHeads(output(outputs, "v"), lengths, headDim),
    positions: splitHeads(output<Int32Array>(outputs, "positions"), lengths, 1),
  };
}

function splitHeads<T extends Float32Array | Int32Array>(array: T, lengths: Int32Array, width: number): T[] {
  let begin = 0;
  return Array.from(lengths, (length) => {
    const part = array.slice(begin, begin + length * width) as T;
    begin += length * width;
    return part;
  });
}

/** The first counts[h] elements of row h of [heads, capacity]. */
export function headParts<T extends Float32Array | Int32Array>(array: T, counts: Iterable<number>): T[] {
  const list = [...counts];
  const capacity = array.length / list.length;
  return list.map((count, head) => array.slice(head * capacity, head * capacity + count) as T);
}

/** Lists of different lengths, one a head, as [heads, capacity]. */
export function padHeads<T extends Float32Array | Int32Array>(parts: readonly T[], capacity: number, to: T): T {
  for (const [head, part] of parts.entries()) to.set(part.subarray(0, capacity), head * capacity);
  return to;
}
