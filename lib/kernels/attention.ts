import { requireInteger } from "../errors.js";
import { type CacheRows, cacheInputs, type HeldRows, heldRows, queryInputs } from "./cache.js";
import { callKernel, type KernelOptions, output, requireArray, requirePositive, rowsOf } from "./call.js";

/**
 * Causal attention of `q` [queries, heads, headDim] over a cache whose last rows are those of the queries. Returns
 * `out` as `q`, and `lse` [queries, heads]: the logarithm of each query's sum of exp(scaled score).
 */
export async function attention(
  args: CacheRows & {
    readonly q: Float32Array;
    readonly heads: number;
    /** Default 1 / sqrt(headDim). */
    readonly scale?: number;
  },
  options?: KernelOptions,
): Promise<{ out: Float32Array; lse: Float32Array }> {
  const { inputs } = cacheInputs(args);
  const outputs = await callKernel("attention", { ...inputs, ...queryInputs(args, args) }, options);
  return { out: output(outputs, "out"), lse: output(outputs, "lse") };
}

/** Merges attention results over disjoint keys: `parts` [splits, rows, heads, headDim], `lses` [splits, rows, heads]. */
export async function mergeStates(
  {
    parts,
    lses,
    splits,
    heads,
    headDim,
  }: {
    readonly parts: Float32Array;
    readonly lses: Float32Array;
    readonly splits: number;
    readonly heads: number;
    readonly headDim: number;
  },
  options?: KernelOptions,
): Promise<{ out: Float32Array; lse: Float32Array }> {
  const width =
    requirePositive("splits", splits) * requirePositive("heads", heads) * requirePositive("headDim", headDim);
  const rows = rowsOf("parts", requireArray("parts", parts, Float32Array), width);
  requireArray("lses", lses, Float32Array, splits * rows * heads);
  const outputs = await callKernel("mergeStates", { parts, lses, splits, rows, heads, headDim }, options);
  return { out: output(outputs, "out"), lse: output(outputs, "lse") };
}

/** Appends the rows to an empty cache, keys rotated when `cos` and `sin` [rows, headDim / 2] are given. */
export async function append(
  args: CacheRows & { readonly cos?: Float32Array; readonly sin?: Float32Array },
  options?: KernelOptions,
): Promise<HeldRows> {
  const { inputs, rows } = cacheInputs(args);
  const table = (rows * args.headDim) / 2;
  const rotation =
    args.cos === undefined && args.sin === undefined
      ? {}
      : {
          cos: requireArray("cos", args.cos, Float32Array, table),
          sin: requireArray("sin", args.sin, Float32Array, table),
        };
  return heldRows(await callKernel("append", { ...inputs, ...rotation }, options), args.headDim);
}

/** Removes the last `drop` rows of every head. */
export async function truncate(
  args: CacheRows & { readonly drop: number },
  options?: KernelOptions,
): Promise<HeldRows> {
  const drop = requireInteger("drop", args.drop, 0, 2 ** 31 - 1);
  return heldRows(await callKernel("truncate", { ...cacheInputs(args).inputs, drop }, options), args.headDim);
}
