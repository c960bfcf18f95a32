/** The stable codes of every error longhaul raises. A program branches on these, never on messages. */
export type ErrorCode =
  | "ERR_INVALID_ARGUMENT"
  | "ERR_OUT_OF_MEMORY"
  | "ERR_OVERLOADED"
  | "ERR_UNSUPPORTED"
  | "ERR_CORRUPT_FILE"
  | "ERR_COMMUNICATION"
  | "ERR_DEVICE_LOST"
  | "ERR_DISPOSED"
  | "ERR_INTERNAL";

/** The one error class of the package: `code` says what went wrong, `message` says which value and what to do about it. */
export class LonghaulError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = "LonghaulError";
    this.code = code;
  }
}

/** A value as an error message shows it: short, on one line, with strings quoted. */
export function describeValue(value: unknown): string {
  let text: string;
  if (typeof value === "string") text = JSON.stringify(value);
  else if (typeof value === "bigint") text = `${value}n`;
  else if (typeof value === "function") text = "a function";
  else if (Array.isArray(value)) text = `an array of ${value.length}`;
  else if (ArrayBuffer.isView(value)) text = `a ${value.constructor.name}`;
  else if (typeof value === "object" && value !== null) text = "an object";
  else text = String(value);
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}

/** The error for an option whose value is wrong: names the option, what it must be, and the value that was given. */
export function invalidOption(option: string, expected: string, value: unknown): LonghaulError {
  return new LonghaulError(
    "ERR_INVALID_ARGUMENT",
    `${option} must be ${expected}, got ${describeValue(value)}`,
  );
}

/** Returns `value` when it is an integer in [min, max], else throws the error of `invalidOption`. */
export function requireInteger(
  option: string,
  value: unknown,
  min = Number.MIN_SAFE_INTEGER,
  max = Number.MAX_SAFE_INTEGER,
): number {
  if (Number.isSafeInteger(value) && (value as number) >= min && (value as number) <= max)
    return value as number;
  throw invalidOption(option, `an integer${rangeOf(min, max)}`, value);
}

/** Returns `value` when it is a finite number in [min, max], else throws the error of `invalidOption`. */
export function requireNumber(
  option: string,
  value: unknown,
  min = Number.NEGATIVE_INFINITY,
  max = Number.POSITIVE_INFINITY,
): number {
  if (Number.isFinite(value) && (value as number) >= min && (value as number) <= max) return value as number;
  throw invalidOption(option, `a finite number${rangeOf(min, max)}`, value);
}

/** Returns `value` when it is a string, not empty unless `allowEmpty`, else throws the error of `invalidOption`. */
export function requireString(option: string, value: unknown, { allowEmpty = false } = {}): string {
  if (typeof value === "string" && (allowEmpty || value.length > 0)) return value;
  throw invalidOption(option, allowEmpty ? "a string" : "a string that is not empty", value);
}

/** Returns `value` when it is one of `choices`, else throws an error that lists them. */
export function requireOneOf<T extends string>(option: string, value: unknown, choices: readonly T[]): T {
  if ((choices as readonly unknown[]).includes(value)) return value as T;
  throw invalidOption(option, `one of ${choices.join(", ")}`, value);
}

/** Throws the signal's own reason when it is aborted, as fetch does. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw signal.reason;
}

function rangeOf(min: number, max: number): string {
  const hasMin = min > Number.MIN_SAFE_INTEGER;
  const hasMax = max < Number.MAX_SAFE_INTEGER;
  if (hasMin && hasMax) return ` from ${min} to ${max}`;
  if (hasMin) return ` of at least ${min}`;
  return hasMax ? ` of at most ${max}` : "";
}
