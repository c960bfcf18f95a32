import { type DeviceName, requireDevice } from "../device.js";
import { invalidOption, LonghaulError, requireInteger, requireOneOf } from "../errors.js";
import { fromNative, type KernelInputs, type KernelOutputs, nativeAddon } from "../native.js";

/** Where a kernel runs. */
export interface KernelOptions {
  /** Default "auto". */
  readonly device?: DeviceName;
}

/** A matrix [rows, cols] of weights. The bits of bf16 and f16 numbers come in a Uint16Array. */
export interface Matrix {
  readonly data: Float32Array | Uint16Array;
  readonly cols: number;
  /** Default "f32". With "bf16" the activations are rounded to bf16 too, as in an engine. */
  readonly dtype?: "f32" | "bf16" | "f16";
}

type ArrayType = Float32ArrayConstructor | Float64ArrayConstructor | Int32ArrayConstructor;

/** Runs an op of the addon. */
export async function callKernel(
  op: string,
  inputs: KernelInputs,
  { device }: KernelOptions = {},
): Promise<KernelOutputs> {
  const known = requireDevice(device);
  try {
    return await nativeAddon().runKernel(op, known, inputs);
  } catch (error) {
    throw fromNative(error);
  }
}

/** An output of an op. */
export function output<T extends Float32Array | Int32Array = Float32Array>(
  outputs: KernelOutputs,
  name: string,
): T {
  const array = outputs[name];
  if (array === undefined) throw new LonghaulError("ERR_INTERNAL", `the kernel gave no "${name}"`);
  return array as unknown as T;
}

/** Checks the type of an array and, when `length` is given, how many elements it has. */
export function requireArray<T extends ArrayType>(
  option: string,
  value: unknown,
  type: T,
  length?: number,
): InstanceType<T> {
  const expected = `a ${type.name}${length === undefined ? "" : ` of ${length} elements`}`;
  if (!(value instanceof type)) throw invalidOption(option, expected, value);
  if (length !== undefined && value.length !== length) {
    throw invalidOption(option, expected, `${value.length} elements`);
  }
  return value as InstanceType<T>;
}

/** Token ids, row numbers or positions, as the addon takes them. */
export function requireIndices(
  option: string,
  value: readonly number[] | Int32Array,
  length?: number,
): Int32Array {
  if (!Array.isArray(value) && !(value instanceof Int32Array)) {
    throw invalidOption(option, "an Int32Array or an array of integers", value);
  }
  if (length !== undefined && value.length !== length) {
    throw invalidOption(option, `${length} integers`, `${value.length} elements`);
  }
  return Int32Array.from(value, (index, at) => requireInteger(`${option}[${at}]`, index, 0, 2 ** 31 - 1));
}

/** How many rows of `size` elements an array holds. */
export function rowsOf(option: string, array: { readonly length: number }, size: number): number {
  if (size > 0 && array.length > 0 && array.length % size === 0) return array.length / size;
  throw invalidOption(option, `rows of ${size} elements`, `${array.length} elements`);
}

export function requirePositive(option: string, value: unknown): number {
  return requireInteger(option, value, 1, 2 ** 31 - 1);
}

/** The inputs `<name>` and `<name>Dtype` of a matrix, and its shape. */
export function matrixInputs(
  name: string,
  matrix: Matrix,
): { inputs: KernelInputs; rows: number; cols: number } {
  if (typeof matrix !== "object" || matrix === null) throw invalidOption(name, "a matrix", matrix);
  const dtype = requireOneOf(`${name}.dtype`, matrix.dtype ?? "f32", ["f32", "bf16", "f16"]);
  const { data } = matrix;
  const fits = dtype === "f32" ? data instanceof Float32Array : data instanceof Uint16Array;
  if (!fits)
    throw invalidOption(`${name}.data`, dtype === "f32" ? "a Float32Array" : `a Uint16Array (${dtype})`, data);
  const cols = requirePositive(`${name}.cols`, matrix.cols);
  return { inputs: { [name]: data, [`${name}Dtype`]: dtype }, rows: rowsOf(`${name}.data`, data, cols), cols };
}
