const QUOTE = 0x22;
const COMMA = 0x2c;
const COLON = 0x3a;
const BACKSLASH = 0x5c;
const [OPEN_BRACKET, CLOSE_BRACKET, OPEN_BRACE, CLOSE_BRACE] = [0x5b, 0x5d, 0x7b, 0x7d];
const END = -1;

/** `value` takes strings of any length; no token comes near these. */
const MAX_STRING_UNITS = 2 ** 20;
const MAX_KEY_UNITS = 1000;

const ESCAPES: ReadonlyMap<number, number> = new Map(
  Object.entries({ '"': '"', "\\": "\\", "/": "/", b: "\b", f: "\f", n: "\n", r: "\r", t: "\t" }).map(
    ([name, character]) => [name.charCodeAt(0), character.charCodeAt(0)],
  ),
);

/**
 * Walks through a JSON text that comes in chunks of UTF-8, in the order of the text and without an object for each
 * value: a vocabulary as JavaScript objects takes many times the bytes of its file. Every method consumes the value
 * that comes next and throws a SyntaxError where the text is not JSON; what `skip` passes is not examined closely.
 */
export class JsonReader {
  /** The UTF-16 units that `string` read; the next call may replace the array. */
  units = new Uint16Array(256);
  readonly #chunks: Iterator<Uint8Array>;
  #chunk: Uint8Array = new Uint8Array();
  #position = 0;
  #chunkOffset = 0;
  #captured = new Uint8Array(256);
  #capturedLength = 0;

  constructor(chunks: Iterable<Uint8Array>) {
    this.#chunks = chunks[Symbol.iterator]();
  }

  /** Calls `onMember` with the key of each member of an object; it must consume the member's value. */
  object(onMember: (key: string) => void): void {
    this.members((length) => {
      if (length > MAX_KEY_UNITS) this.#fail("a key that is far too long");
      onMember(String.fromCharCode(...this.units.subarray(0, length)));
    });
  }

  /** The same, but the key is the first `length` of `units`, until the next string is read. */
  members(onMember: (length: number) => void): void {
    this.#list(OPEN_BRACE, CLOSE_BRACE, () => {
      const length = this.string();
      this.#expect(COLON);
      onMember(length);
    });
  }

  /** Calls `onItem` before each item of an array; it must consume it. */
  array(onItem: (index: number) => void): void {
    this.#list(OPEN_BRACKET, CLOSE_BRACKET, onItem);
  }

  /** What comes next. */
  get kind(): "object" | "array" | "string" | "scalar" {
    const byte = this.#first();
    if (byte === OPEN_BRACE) return "object";
    if (byte === OPEN_BRACKET) return "array";
    return byte === QUOTE ? "string" : "scalar";
  }

  /** Reads a string, or an object's key, into `units` from index `at`. Returns the index behind its last unit. */
  string(at = 0): number {
    this.#expect(QUOTE);
    let end = at;
    for (let byte = this.#next(); byte !== QUOTE; byte = this.#next()) {
      if (end + 2 > this.units.length) this.#growUnits();
      if (byte === BACKSLASH) this.units[end++] = this.#escape();
      else if (byte < 0x20) this.#fail("a control character inside a string");
      else if (byte < 0x80) this.units[end++] = byte;
      else end = this.#multibyte(byte, end);
    }
    return end;
  }

  /** Any value, as JSON.parse gives it. */
  value(): unknown {
    this.#span(true);
    const integer = this.#capturedInteger();
    if (integer !== undefined) return integer;
    let text: string;
    try {
      text = new TextDecoder("utf-8", { fatal: true }).decode(this.#captured.subarray(0, this.#capturedLength));
    } catch {
      this.#fail("bytes that are not UTF-8");
    }
    return JSON.parse(text);
  }

  skip(): void {
    this.#span(false);
  }

  /** Only white space may follow. */
  end(): void {
    if (this.#first() !== END) this.#fail("something behind the end");
  }

  #list(open: number, close: number, onItem: (index: number) => void): void {
    this.#expect(open);
    if (this.#first() === close) {
      this.#position++;
      return;
    }
    for (let index = 0; ; ++index) {
      onItem(index);
      const byte = this.#first();
      this.#position++;
      if (byte === close) return;
      if (byte !== COMMA) this.#fail("a missing comma or bracket");
    }
  }

  /** Consumes a value's bytes, and leaves them in #captured if asked to. */
  #span(capture: boolean): void {
    this.#capturedLength = 0;
    this.#first();
    let depth = 0;
    do {
      const byte = this.#take(capture);
      if (byte === QUOTE) this.#spanString(capture);
      else if (byte === OPEN_BRACE || byte === OPEN_BRACKET) depth++;
      else if (byte === CLOSE_BRACE || byte === CLOSE_BRACKET) depth--;
      else if (depth === 0) while (!endsScalar(this.#peek())) this.#take(capture);
    } while (depth > 0);
    if (depth < 0) this.#fail("no value");
  }

  /** Ids are by far the most values: they need no text. */
  #capturedInteger(): number | undefined {
    if (this.#capturedLength > 15 || (this.#captured[0] === 0x30 && this.#capturedLength > 1)) return undefined;
    let integer = 0;
    for (let i = 0; i < this.#capturedLength; ++i) {
      const digit = (this.#captured[i] as number) - 0x30;
      if (digit < 0 || digit > 9) return undefined;
      integer = 10 * integer + digit;
    }
    return integer;
  }

  #spanString(capture: boolean): void {
    for (let byte = this.#take(capture); byte !== QUOTE; byte = this.#take(capture)) {
      if (byte === BACKSLASH) this.#take(capture);
    }
  }

  #take(capture: boolean): number {
    const byte = this.#next();
    if (!capture) return byte;
    if (this.#capturedLength === this.#captured.length) {
      const larger = new Uint8Array(2 * this.#captured.length);
      larger.set(this.#captured);
      this.#captured = larger;
    }
    this.#captured[this.#capturedLength++] = byte;
    return byte;
  }

  #escape(): number {
    const name = this.#next();
    if (name !== 0x75) return ESCAPES.get(name) ?? this.#fail("an unknown escape");
    let unit = 0;
    for (let digit = 0; digit < 4; ++digit) {
      const value = Number.parseInt(String.fromCharCode(this.#next()), 16);
      if (Number.isNaN(value)) this.#fail("an escape that is not four hexadecimal digits");
      unit = unit * 16 + value;
    }
    return unit;
  }

  /** The rest of a character whose UTF-8 begins with `lead`, as one or two units at `at`. */
  #multibyte(lead: number, at: number): number {
    const more = lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
    let point = lead & (0x3f >> more);
    for (let i = 0; i < more; ++i) {
      const byte = this.#next();
      if ((byte & 0xc0) !== 0x80) this.#fail("bytes that are not UTF-8");
      point = (point << 6) | (byte & 0x3f);
    }
    const least = [0x80, 0x800, 0x10000][more - 1] as number;
    const isSurrogate = point >= 0xd800 && point < 0xe000;
    if (lead < 0xc0 || lead > 0xf4 || point < least || point > 0x10ffff || isSurrogate) {
      this.#fail("bytes that are not UTF-8");
    }
    if (point < 0x10000) {
      this.units[at] = point;
      return at + 1;
    }
    this.units[at] = 0xd800 + ((point - 0x10000) >> 10);
    this.units[at + 1] = 0xdc00 + (point & 0x3ff);
    return at + 2;
  }

  #growUnits(): void {
    if (this.units.length >= MAX_STRING_UNITS) this.#fail("a string that is far too long");
    const units = new Uint16Array(2 * this.units.length);
    units.set(this.units);
    this.units = units;
  }

  #expect(byte: number): void {
    if (this.#first() !== byte) this.#fail(`no ${String.fromCharCode(byte)}`);
    this.#position++;
  }

  /** The next byte that is not white space, not consumed. */
  #first(): number {
    let byte = this.#peek();
    while (byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09) {
      this.#position++;
      byte = this.#peek();
    }
    return byte;
  }

  #next(): number {
    const byte = this.#peek();
    if (byte === END) this.#fail("the end of the text inside a value");
    this.#position++;
    return byte;
  }

  #peek(): number {
    return this.#position < this.#chunk.length ? (this.#chunk[this.#position] as number) : this.#refill();
  }

  #refill(): number {
    this.#chunkOffset += this.#chunk.length;
    this.#position = 0;
    const { done, value } = this.#chunks.next();
    this.#chunk = done ? new Uint8Array() : value;
    return done ? END : this.#peek();
  }

  #fail(problem: string): never {
    throw new SyntaxError(`${problem} at byte ${this.#chunkOffset + this.#position}`);
  }
}

function endsScalar(byte: number): boolean {
  return byte === END || byte === COMMA || byte === CLOSE_BRACE || byte === CLOSE_BRACKET || byte <= 0x20;
}
