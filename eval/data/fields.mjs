// Reading data that somebody else wrote: errors name the file, the record and the field.
import { LonghaulError } from "longhaul";

export const isFields = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

/** A value as an error shows it. */
function shown(value) {
  if (value === undefined) return "nothing";
  if (Array.isArray(value)) return `an array of ${value.length}`;
  if (isFields(value)) return "an object";
  const text = JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

export const invalidData = (file, problem) => new LonghaulError("ERR_INVALID_ARGUMENT", `${file}: ${problem}`);

/** The fields of one record of a file. */
export class Record {
  #file;
  #at;
  #value;

  /** @param {string} at where the record stands in the file, such as "[3].qa[0]"; "" for the file itself */
  constructor(file, at, value) {
    this.#file = file;
    this.#at = at;
    this.#value = value;
    if (!isFields(value)) throw this.#wrong("", "an object", value);
  }

  get names() {
    return Object.keys(this.#value);
  }

  has(name) {
    return this.#value[name] !== undefined;
  }

  text(name, { allowEmpty = false } = {}) {
    const value = this.#value[name];
    if (typeof value === "string" && (allowEmpty || value !== "")) return value;
    throw this.#wrong(name, allowEmpty ? "text" : "text that is not empty", value);
  }

  /** Text, or a number as text: answers such as 2022 stand without quotes in some files. */
  textOrNumber(name) {
    const value = this.#value[name];
    return typeof value === "number" ? String(value) : this.text(name);
  }

  oneOf(name, values) {
    const value = this.#value[name];
    if (values.includes(value)) return value;
    throw this.#wrong(name, `one of ${values.join(", ")}`, value);
  }

  record(name) {
    return new Record(this.#file, this.#path(name), this.#value[name]);
  }

  list(name) {
    const value = this.#value[name];
    if (Array.isArray(value)) return value;
    throw this.#wrong(name, "an array", value);
  }

  records(name) {
    return this.list(name).map(
      (value, index) => new Record(this.#file, `${this.#path(name)}[${index}]`, value),
    );
  }

  /** For what no other reader can say; `name` may be "", for the record itself. */
  invalid(name, problem) {
    return invalidData(this.#file, `${this.#path(name)} ${problem}`.trimStart());
  }

  #path(name) {
    return this.#at === "" || name === "" ? `${this.#at}${name}` : `${this.#at}.${name}`;
  }

  #wrong(name, expected, value) {
    return this.invalid(name, `must be ${expected}, got ${shown(value)}`);
  }
}
