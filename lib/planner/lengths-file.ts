import { LonghaulError, requireNumber, requireString } from "../errors.js";

export interface LengthsOptions {
  /**
   * Field of JSON lines; default the first of `tokens`, `num_tokens`, `length`, `input_ids`, `text` that a line
   * has.
   */
  readonly field?: string;
  /** How many characters of a text make a token. Default 4. */
  readonly charactersPerToken?: number;
}

const FIELDS = ["tokens", "num_tokens", "length", "input_ids", "text"] as const;

/**
 * Lengths of sequences, from a text with one a line or from JSON lines: numbers, or objects with a field that
 * is a number of tokens, an array of token ids, or a text, whose tokens are estimated from its characters.
 * Empty lines are left out. ERR_CORRUPT_FILE names the line that does not fit; `name` is what it calls the
 * file.
 */
export function parseLengths(text: string, name: string, options: LengthsOptions = {}): number[] {
  const charactersPerToken = requireNumber("charactersPerToken", options.charactersPerToken ?? 4, 0.01);
  if (options.field !== undefined) requireString("field", options.field);
  const lengths = text.split("\n").flatMap((raw, index) => {
    const line = raw.trim();
    if (line === "") return [];
    const refuse = (why: string) => new LonghaulError("ERR_CORRUPT_FILE", `${name}, line ${index + 1}: ${why}`);
    return [lengthOf(line, { ...options, charactersPerToken }, refuse)];
  });
  if (lengths.length === 0)
    throw new LonghaulError(
      "ERR_CORRUPT_FILE",
      `${name}: holds no lengths; one a line is expected, or JSON lines`,
    );
  return lengths;
}

function lengthOf(
  line: string,
  { field, charactersPerToken = 4 }: LengthsOptions,
  refuse: (why: string) => LonghaulError,
): number {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    throw refuse(`${shown(line)} is neither a number nor JSON`);
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value)) {
    const object = value as { readonly [name: string]: unknown };
    const found = field ?? FIELDS.find((known) => object[known] !== undefined);
    if (found === undefined)
      throw refuse(`has none of the fields ${FIELDS.join(", ")}; say which with --field, or field`);
    if (object[found] === undefined) throw refuse(`has no field "${found}"`);
    value = object[found];
    if (typeof value === "string") value = Math.ceil([...value].length / charactersPerToken);
    else if (Array.isArray(value)) value = value.length;
  }
  if (!Number.isSafeInteger(value) || (value as number) < 1)
    throw refuse(`${shown(JSON.stringify(value))} is no number of tokens, an integer of at least 1`);
  return value as number;
}

const shown = (text: string) => (text.length > 40 ? `${text.slice(0, 37)}...` : text);
