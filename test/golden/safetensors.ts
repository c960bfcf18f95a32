// Reads arrays of a .safetensors file, with no code of the package.
import { readFileSync } from "node:fs";

export interface StoredArray {
  readonly shape: readonly number[];
  readonly values: Float32Array | Int32Array;
}

export class Safetensors {
  readonly #bytes: Buffer;
  readonly #header: Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>;
  readonly #begin: number;

  constructor(path: string) {
    this.#bytes = readFileSync(path);
    this.#begin = 8 + Number(this.#bytes.readBigUInt64LE(0));
    this.#header = JSON.parse(this.#bytes.toString("utf8", 8, this.#begin));
  }

  has(name: string): boolean {
    return Object.hasOwn(this.#header, name);
  }

  read(name: string): StoredArray {
    const entry = this.#header[name];
    if (entry === undefined) throw new Error(`there is no tensor ${name}`);
    const [begin, end] = entry.data_offsets.map((offset) => this.#begin + offset);
    const bytes = new Uint8Array(this.#bytes.subarray(begin, end)).buffer;
    if (entry.dtype === "I32") return { shape: entry.shape, values: new Int32Array(bytes) };
    if (entry.dtype === "F32") return { shape: entry.shape, values: new Float32Array(bytes) };
    throw new Error(`tensor ${name} is ${entry.dtype}, not I32 or F32`);
  }
}
