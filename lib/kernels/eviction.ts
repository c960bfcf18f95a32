import { invalidOption, requireInteger, requireOneOf } from "../errors.js";
import {
  type CacheRows,
  cacheInputs,
  type HeldRows,
  headParts,
  heldRows,
  padHeads,
  queryInputs,
} from "./cache.js";
import {
  callKernel,
  type KernelOptions,
  output,
  requireArray,
  requireIndices,
  requirePositive,
} from "./call.js";

const MAX_INT32 = 2 ** 31 - 1;

/**
 * How much attention the queries `q` [queries, heads, headDim] give to each row of a cache. Returns the scores of each
 * KV head's scored rows: all but the last `ignoreLast` and, with `window`, the queries' own.
 */
export async function scoreKeys(
  args: CacheRows & {
    readonly q: Float32Array;
    readonly heads: number;
    readonly scale?: number;
    /** Rows at the end that no query sees. Default 0. */
    readonly ignoreLast?: number;
    /** Whether the queries are those of the last rows, so that each sees only what is before it. Default false. */
    readonly window?: boolean;
    /** Over queries and the heads of a group. Default "max". */
    readonly reduce?: "max" | "mean";
    /** Neighbouring rows that are averaged, odd. Default 1: none. */
    readonly poolKernel?: number;
  },
  options?: KernelOptions,
): Promise<Float32Array[]> {
  const { inputs, lengths } = cacheInputs(args);
  const queries = queryInputs(args, args);
  const ignoreLast = requireInteger("ignoreLast", args.ignoreLast ?? 0, 0, MAX_INT32);
  const window = args.window ?? false;
  const call = {
    ...inputs,
    ...queries,
    ignoreLast,
    window,
    reduce: requireOneOf("reduce", args.reduce ?? "max", ["max", "mean"]),
    poolKernel: requirePositive("poolKernel", args.poolKernel ?? 1),
  };
  const unscored = ignoreLast + (window ? (queries.queries as number) : 0);
  const scores = output(await callKernel("scoreKeys", call, options), "scores");
  return headParts(
    scores,
    Array.from(lengths, (length) => length - unscored),
  );
}

/** KeyDiff: how little each key is like the mean key of its head. Returns the scores of each KV head. */
export async function keyDiversity(
  args: Omit<CacheRows, "v"> & { readonly ignoreLast?: number },
  options?: KernelOptions,
): Promise<Float32Array[]> {
  const { inputs, lengths } = cacheInputs({ ...args, v: args.k });
  const ignoreLast = requireInteger("ignoreLast", args.ignoreLast ?? 0, 0, MAX_INT32);
  const outputs = await callKernel("keyDiversity", { ...inputs, ignoreLast }, options);
  return headParts(
    output(outputs, "scores"),
    Array.from(lengths, (length) => length - ignoreLast),
  );
}

/** Which rows of each KV head an eviction keeps: row numbers, ascending. */
export async function selectRows(
  args: {
    /** Rows of each KV head. */
    readonly lengths: readonly number[] | Int32Array;
    /** One a KV head, with a score for each of its rows. Left out: the newer row is the better one. */
    readonly scores?: readonly Float32Array[];
    /** Rows a KV head, on average at level "pair". */
    readonly budget: number;
    readonly level?: "pair" | "head";
    /** Rows at the end that are dropped whatever their score. */
    readonly dropLast?: number;
    readonly protectFirst?: number;
    readonly protectLast?: number;
  },
  options?: KernelOptions,
): Promise<Int32Array[]> {
  const lengths = requireIndices("lengths", args.lengths);
  const kvHeads = lengths.length;
  const capacity = Math.max(1, ...lengths);
  const count = (name: "dropLast" | "protectFirst" | "protectLast") =>
    requireInteger(name, args[name] ?? 0, 0, MAX_INT32);
  const { scores } = args;
  if (kvHeads === 0) throw invalidOption("lengths", "the rows of at least one head", args.lengths);
  if (scores !== undefined && scores.length !== kvHeads) {
    throw invalidOption("scores", `one array for each of ${kvHeads} heads`, scores);
  }
  const dropLast = count("dropLast");
  for (const [head, part] of scores?.entries() ?? []) {
    const needed = Math.max(0, (lengths[head] as number) - dropLast);
    const given = requireArray(`scores[${head}]`, part, Float32Array).length;
    if (given < needed) throw invalidOption(`scores[${head}]`, `${needed} scores`, `${given} elements`);
  }
  const inputs = {
    lengths,
    kvHeads,
    capacity,
    dropLast,
    budget: requirePositive("budget", args.budget),
    level: requireOneOf("level", args.level ?? "pair", ["pair", "head"]),
    protectFirst: count("protectFirst"),
    protectLast: count("protectLast"),
    ...(scores && { scores: padHeads(scores, capacity, new Float32Array(kvHeads * capacity)) }),
  };
  const outputs = await callKernel("select", inputs, options);
  return headParts(output<Int32Array>(outputs, "kept"), output<Int32Array>(outputs, "keptCount"));
}

/** Moves the kept rows of each KV head to the front of the cache, in order, and drops the others. */
export async function compact(
  args: CacheRows & {
    /** One a KV head: row numbers, ascending. */
    readonly kept: readonly (Int32Array | readonly number[])[];
  },
  options?: KernelOptions,
): Promise<HeldRows> {
  const { inputs, rows, lengths } = cacheInputs(args);
  if (!Array.isArray(args.kept) || args.kept.length !== args.kvHeads) {
    throw invalidOption("kept", `row numbers of each of ${args.kvHeads} heads`, args.kept);
  }
  const kept = args.kept.map((part, head) => {
    const indices = requireIndices(`kept[${head}]`, part);
    for (const [at, row] of indices.entries()) {
      const least = at === 0 ? 0 : (indices[at - 1] as number) + 1;
      requireInteger(`kept[${head}][${at}]`, row, least, (lengths[head] as number) - 1);
    }
    return indices;
  });
  const call = {
    ...inputs,
    kept: padHeads(kept, rows, new Int32Array(args.kvHeads * rows)),
    keptCount: Int32Array.from(kept, (part) => part.length),
  };
  return heldRows(await callKernel("compact", call, options), args.headDim);
}
