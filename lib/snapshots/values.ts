import { invalidOption, requireInteger, requireNumber, requireString } from "../errors.js";
import { isJsonObject, type JsonObject } from "../text/files.js";

// Values of JSON that nobody has vouched for. They throw the errors of options; the snapshot's reader turns those into
// ones that name the file.

const MAX_INT32 = 2 ** 31 - 1;

export function requireObject(name: string, value: unknown): JsonObject {
  if (isJsonObject(value)) return value;
  throw invalidOption(name, "an object", value);
}

export function requireFlag(name: string, value: unknown): boolean {
  if (typeof value === "boolean") return value;
  throw invalidOption(name, "true or false", value);
}

export function requireText(name: string, value: unknown): string {
  return requireString(name, value, { allowEmpty: true });
}

export function requireList<T>(
  name: string,
  value: unknown,
  read: (name: string, item: unknown) => T,
): readonly T[] {
  if (!Array.isArray(value)) throw invalidOption(name, "an array", value);
  return value.map((item, index) => read(`${name}[${index}]`, item));
}

/** Numbers that fit an i32, from `min`. */
export function requireIntegers(name: string, value: unknown, min = 0): number[] {
  return [...requireList(name, value, (at, item) => requireInteger(at, item, min, MAX_INT32))];
}

export function requireNumbers(name: string, value: unknown): Float64Array {
  return Float64Array.from(requireList(name, value, (at, item) => requireNumber(at, item)));
}

export function requireInt32(name: string, value: unknown, min = 0): number {
  return requireInteger(name, value, min, MAX_INT32);
}
