/** How much room a `Vocabulary` needs. */
export interface VocabularySize {
  readonly tokens: number;
  /** UTF-16 units of all tokens together. */
  readonly units: number;
  /** One more than the largest id. */
  readonly ids: number;
}

/**
 * Tokens and their ids in a few flat arrays. As strings in a Map and an array they take ten times as much memory, of
 * which nobody could say how much it is. The room is given at the start; a token beyond it is a RangeError.
 */
export class Vocabulary {
  readonly #units: Uint16Array;
  /** Token i is #units[#begins[i], #begins[i + 1]). */
  readonly #begins: Uint32Array;
  readonly #ids: Uint32Array;
  /** By id, the token's index + 1; 0 where there is none. */
  readonly #byId: Uint32Array;
  /** Open addressing: a token's index + 1 at its hash or behind; 0 where free. */
  readonly #table: Uint32Array;
  readonly #seed = Math.floor(Math.random() * 2 ** 32);
  #tokens = 0;
  #longest = 0;

  constructor({ tokens, units, ids }: VocabularySize) {
    this.#units = new Uint16Array(units);
    this.#begins = new Uint32Array(tokens + 1);
    this.#ids = new Uint32Array(tokens);
    this.#byId = new Uint32Array(ids);
    this.#table = new Uint32Array(tableSize(tokens));
  }

  /** Bytes of the arrays. */
  get bytes(): number {
    const arrays = [this.#units, this.#begins, this.#ids, this.#byId, this.#table];
    return arrays.reduce((sum, { byteLength }) => sum + byteLength, 0);
  }

  /** One more than the largest id there is room for. */
  get ids(): number {
    return this.#byId.length;
  }

  /** Adds the token units[begin, end). One that is there already gets the new id; an id's last token is its token. */
  add(units: Uint16Array, begin: number, end: number, id: number): void {
    const slot = this.#find(units, begin, end);
    const known = this.#table[slot] as number;
    const index = known > 0 ? known - 1 : this.#tokens;
    if (known === 0) {
      const at = this.#begins[index] as number;
      if (index >= this.#ids.length || at + end - begin > this.#units.length) throw full();
      this.#units.set(units.subarray(begin, end), at);
      this.#begins[++this.#tokens] = at + end - begin;
      this.#longest = Math.max(this.#longest, end - begin);
      this.#table[slot] = index + 1;
    } else if (this.#byId[this.#ids[index] as number] === known) {
      this.#byId[this.#ids[index] as number] = 0;
    }
    if (id >= this.#byId.length) throw full();
    this.#ids[index] = id;
    this.#byId[id] = index + 1;
  }

  addText(token: string, id: number): void {
    this.add(unitsOf(token), 0, token.length, id);
  }

  /** The id of the token units[begin, end), or undefined. */
  find(units: Uint16Array, begin: number, end: number): number | undefined {
    const index = this.#table[this.#find(units, begin, end)] as number;
    return index === 0 ? undefined : this.#ids[index - 1];
  }

  get(token: string): number | undefined {
    // Whole texts are looked up too, where nothing splits them into words.
    return token.length > this.#longest ? undefined : this.find(unitsOf(token), 0, token.length);
  }

  has(token: string): boolean {
    return this.get(token) !== undefined;
  }

  /** The token of an id, or undefined. */
  token(id: number): string | undefined {
    const index = this.#byId[id] ?? 0;
    if (index === 0) return undefined;
    return textOf(this.#units.subarray(this.#begins[index - 1], this.#begins[index]));
  }

  /** The slot of the token, or the free one where it belongs. */
  #find(units: Uint16Array, begin: number, end: number): number {
    const mask = this.#table.length - 1;
    let slot = mix(hash(units, begin, end, this.#seed)) & mask;
    for (let index = this.#table[slot]; index; index = this.#table[slot]) {
      if (this.#equals(index - 1, units, begin, end)) return slot;
      slot = (slot + 1) & mask;
    }
    return slot;
  }

  #equals(index: number, units: Uint16Array, begin: number, end: number): boolean {
    const from = this.#begins[index] as number;
    if ((this.#begins[index + 1] as number) - from !== end - begin) return false;
    for (let i = begin; i < end; ++i) if (this.#units[from + i - begin] !== units[i]) return false;
    return true;
  }
}

/** The merges of a BPE model: which pairs of tokens become one, and in what order. In flat arrays, as above. */
export class Merges {
  readonly #left: Uint32Array;
  readonly #right: Uint32Array;
  readonly #table: Uint32Array;
  readonly #seed = Math.floor(Math.random() * 2 ** 32);
  #count = 0;

  constructor(count: number) {
    this.#left = new Uint32Array(count);
    this.#right = new Uint32Array(count);
    this.#table = new Uint32Array(tableSize(count));
  }

  get bytes(): number {
    return this.#left.byteLength + this.#right.byteLength + this.#table.byteLength;
  }

  /** Adds the merge of the next rank. A pair that is there already gets the new rank. */
  add(left: number, right: number): void {
    if (this.#count >= this.#left.length) throw full();
    this.#left[this.#count] = left;
    this.#right[this.#count] = right;
    this.#table[this.#find(left, right)] = ++this.#count;
  }

  /** The rank of a pair of token ids, 0 is merged first; undefined when they stay apart. */
  rank(left: number, right: number): number | undefined {
    const rank = this.#table[this.#find(left, right)] as number;
    return rank === 0 ? undefined : rank - 1;
  }

  #find(left: number, right: number): number {
    const mask = this.#table.length - 1;
    let slot = mix(Math.imul(left ^ this.#seed, 0x9e3779b1) ^ right) & mask;
    for (let rank = this.#table[slot]; rank; rank = this.#table[slot]) {
      if (this.#left[rank - 1] === left && this.#right[rank - 1] === right) return slot;
      slot = (slot + 1) & mask;
    }
    return slot;
  }
}

/** A power of two that `count` entries fill by two thirds at most. */
function tableSize(count: number): number {
  let size = 4;
  while (size * 2 < count * 3) size *= 2;
  return size;
}

let scratch = new Uint16Array(256);

/** A token's units, in an array that the next call uses again. */
function unitsOf(token: string): Uint16Array {
  if (token.length > scratch.length) scratch = new Uint16Array(2 * token.length);
  for (let i = 0; i < token.length; ++i) scratch[i] = token.charCodeAt(i);
  return scratch;
}

function textOf(units: Uint16Array): string {
  let text = "";
  for (let at = 0; at < units.length; at += 1024) {
    text += String.fromCharCode(...units.subarray(at, at + 1024));
  }
  return text;
}

/** FNV-1a over units. */
function hash(units: Uint16Array, begin: number, end: number, seed: number): number {
  let value = seed;
  for (let i = begin; i < end; ++i) value = Math.imul(value ^ (units[i] as number), 0x01000193);
  return value;
}

/** Murmur3's finish: every bit of the input changes the low bits, which choose the slot. */
function mix(value: number): number {
  let mixed = Math.imul(value ^ (value >>> 16), 0x85ebca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
  return (mixed ^ (mixed >>> 16)) >>> 0;
}

function full(): RangeError {
  return new RangeError("the file changed while it was read");
}
