import { requireNumber } from "../errors.js";
import {
  callKernel,
  type KernelOptions,
  type Matrix,
  matrixInputs,
  output,
  requireArray,
  requireIndices,
  requirePositive,
  rowsOf,
} from "./call.js";

/** The rows of `table` that `ids` name. Returns [ids, cols]. */
export async function embed(
  { ids, table }: { readonly ids: readonly number[] | Int32Array; readonly table: Matrix },
  options?: KernelOptions,
): Promise<Float32Array> {
  const { inputs, rows: vocab, cols: hidden } = matrixInputs("table", table);
  const indices = requireIndices("ids", ids);
  const call = { ...inputs, ids: indices, rows: indices.length, vocab, hidden };
  return output(await callKernel("embed", call, options), "out");
}

/** x / sqrt(mean(x^2) + eps) * weight, for each row of `weight.length` elements of `x`. */
export async function rmsNorm(
  args: { readonly x: Float32Array; readonly weight: Float32Array; readonly eps?: number },
  options?: KernelOptions,
): Promise<Float32Array> {
  return output(await callKernel("rmsNorm", normInputs(args), options), "out");
}

/** Adds `delta` to `x`, then normalises: returns the sum and its norm. */
export async function addRmsNorm(
  args: {
    readonly x: Float32Array;
    readonly delta: Float32Array;
    readonly weight: Float32Array;
    readonly eps?: number;
  },
  options?: KernelOptions,
): Promise<{ sum: Float32Array; out: Float32Array }> {
  const inputs = normInputs(args);
  const delta = requireArray("delta", args.delta, Float32Array, args.x.length);
  const outputs = await callKernel("rmsNorm", { ...inputs, delta }, options);
  return { sum: output(outputs, "sum"), out: output(outputs, "out") };
}

function normInputs({
  x,
  weight,
  eps = 1e-6,
}: {
  readonly x: Float32Array;
  readonly weight: Float32Array;
  readonly eps?: number;
}) {
  const dim = requireArray("weight", weight, Float32Array).length;
  const rows = rowsOf("x", requireArray("x", x, Float32Array), dim);
  return { x, weight, rows, dim, eps: requireNumber("eps", eps, 0) };
}

/** x * weight^T (+ bias) (+ sum). `x` is [rows, weight.cols]; returns [rows, weight rows]. */
export async function gemm(
  {
    x,
    weight,
    bias,
    sum,
  }: {
    readonly x: Float32Array;
    readonly weight: Matrix;
    readonly bias?: Float32Array;
    /** Added to the product: [rows, weight rows]. */
    readonly sum?: Float32Array;
  },
  options?: KernelOptions,
): Promise<Float32Array> {
  const { inputs, rows: outputs, cols } = matrixInputs("weight", weight);
  const rows = rowsOf("x", requireArray("x", x, Float32Array), cols);
  const optional = {
    ...(bias === undefined ? {} : { bias: requireArray("bias", bias, Float32Array, outputs) }),
    ...(sum === undefined ? {} : { sum: requireArray("sum", sum, Float32Array, rows * outputs) }),
  };
  return output(await callKernel("gemm", { ...inputs, ...optional, x, rows, outputs, cols }, options), "out");
}

/** silu(gate) * up, for rows of `ff` elements of gate followed by `ff` elements of up. */
export async function swiglu(
  { gateUp, ff }: { readonly gateUp: Float32Array; readonly ff: number },
  options?: KernelOptions,
): Promise<Float32Array> {
  const width = requirePositive("ff", ff);
  const rows = rowsOf("gateUp", requireArray("gateUp", gateUp, Float32Array), 2 * width);
  return output(await callKernel("swiglu", { gateUp, rows, ff: width }, options), "out");
}

/** Cosine and sine of position * frequency: two arrays [positions, frequencies]. */
export async function ropeTable(
  {
    positions,
    frequencies,
  }: { readonly positions: readonly number[] | Int32Array; readonly frequencies: Float64Array },
  options?: KernelOptions,
): Promise<{ cos: Float32Array; sin: Float32Array }> {
  const indices = requireIndices("positions", positions);
  const half = requireArray("frequencies", frequencies, Float64Array).length;
  const inputs = { positions: indices, frequencies, rows: indices.length, half };
  const outputs = await callKernel("ropeTable", inputs, options);
  return { cos: output(outputs, "cos"), sin: output(outputs, "sin") };
}

/** Rotates the pairs (i, i + headDim / 2) of `x` [rows, heads, headDim]; cos and sin are [rows, headDim / 2]. */
export async function rope(
  {
    x,
    heads,
    headDim,
    cos,
    sin,
  }: {
    readonly x: Float32Array;
    readonly heads: number;
    readonly headDim: number;
    readonly cos: Float32Array;
    readonly sin: Float32Array;
  },
  options?: KernelOptions,
): Promise<Float32Array> {
  const width = requirePositive("heads", heads) * requirePositive("headDim", headDim);
  const rows = rowsOf("x", requireArray("x", x, Float32Array), width);
  const table = (rows * headDim) / 2;
  requireArray("cos", cos, Float32Array, table);
  requireArray("sin", sin, Float32Array, table);
  return output(await callKernel("rope", { x, cos, sin, rows, heads, headDim }, options), "out");
}

/** Rows of `x` [rows, dim], in the order of `index`. */
export async function gatherRows(
  {
    x,
    dim,
    index,
  }: { readonly x: Float32Array; readonly dim: number; readonly index: readonly number[] | Int32Array },
  options?: KernelOptions,
): Promise<Float32Array> {
  const rows = rowsOf("x", requireArray("x", x, Float32Array), requirePositive("dim", dim));
  const indices = requireIndices("index", index);
  const inputs = { x, index: indices, rows, dim, count: indices.length };
  return output(await callKernel("gatherRows", inputs, options), "out");
}
