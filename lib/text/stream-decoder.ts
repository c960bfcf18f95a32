import { LonghaulError } from "../errors.js";
import { isJsonObject } from "./files.js";

/** One token on its way to text. `added` marks added tokens, whose text stands for itself. */
export interface Piece {
  readonly text: string;
  readonly added: boolean;
}

/** A step of a tokenizer's decoder that works on a stream: it holds back only what the next token may still change. */
interface Stage {
  push(piece: Piece): Piece[];
  flush(): Piece[];
}

const asText = (text: string): Piece[] => (text === "" ? [] : [{ text, added: false }]);

/**
 * Turns a stream of tokens into text. The text of all pushes and the flush together is the text of all tokens
 * decoded at once, and no push ends inside a UTF-8 sequence. A push costs time in proportion to its token alone.
 */
export class PieceDecoder {
  readonly #stages: Stage[];
  #first = true;
  readonly #separator: string;

  /** @param decoder the `decoder` member of tokenizer.json; null joins tokens with spaces, as the format defines it. */
  constructor(decoder: unknown) {
    this.#separator = decoder === null ? " " : "";
    this.#stages = createStages(decoder, { fused: false });
  }

  push(piece: Piece): string {
    const separator = this.#first ? "" : this.#separator;
    this.#first = false;
    return separator + this.#run([piece], 0);
  }

  /** Ends the stream: gives out what was held back, a cut UTF-8 sequence as U+FFFD. */
  flush(): string {
    let text = "";
    for (const [index, stage] of this.#stages.entries()) text += this.#run(stage.flush(), index + 1);
    return text;
  }

  #run(pieces: Piece[], from: number): string {
    let current = pieces;
    for (const stage of this.#stages.slice(from)) current = current.flatMap((piece) => stage.push(piece));
    return current.map((piece) => piece.text).join("");
  }
}

function createStages(decoder: unknown, state: { fused: boolean }): Stage[] {
  if (decoder === null) return [];
  if (!isJsonObject(decoder)) throw new TypeError("a decoder must be an object");
  switch (decoder.type) {
    case "Sequence": {
      if (!Array.isArray(decoder.decoders)) throw new TypeError("decoder.decoders must be an array");
      return decoder.decoders.flatMap((inner: unknown) => createStages(inner, state));
    }
    case "ByteLevel":
      state.fused = true;
      return [new ByteLevelStage()];
    case "ByteFallback":
      return [new ByteFallbackStage()];
    case "Fuse":
      // Text that leaves here is joined anyway; what matters is that a later Strip sees one string, not tokens.
      state.fused = true;
      return [];
    case "Replace":
      return [new ReplaceStage(decoder.pattern, decoder.content)];
    case "Metaspace":
      return [new MetaspaceStage(decoder.replacement ?? "\u2581", decoder.prepend_scheme !== "never")];
    case "Strip":
      return [new StripStage(decoder.content, decoder.start, decoder.stop, state.fused)];
    default:
      throw new LonghaulError(
        "ERR_UNSUPPORTED",
        `tokenizer decoder ${JSON.stringify(decoder.type)} is not supported: ` +
          "longhaul decodes ByteLevel, Metaspace, and sequences of Replace, ByteFallback, Fuse and Strip",
      );
  }
}

/** Bytes to text across tokens; a character cut by a token's end waits for its other bytes. */
class Utf8Stream {
  // A byte order mark inside a text is a character like others.
  #decoder = new TextDecoder("utf-8", { ignoreBOM: true });

  push(bytes: Uint8Array): string {
    return this.#decoder.decode(bytes, { stream: true });
  }

  flush(): string {
    const text = this.#decoder.decode();
    this.#decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    return text;
  }
}

/** GPT-2's alphabet: every byte is a printable character; those that are not printable were moved above 255. */
const byteOfCharacter: ReadonlyMap<string, number> = (() => {
  const map = new Map<string, number>();
  let moved = 256;
  for (let byte = 0; byte < 256; ++byte) {
    const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    map.set(String.fromCharCode(printable ? byte : moved++), byte);
  }
  return map;
})();

class ByteLevelStage implements Stage {
  readonly #utf8 = new Utf8Stream();

  push(piece: Piece): Piece[] {
    if (piece.added) return asText(this.#utf8.flush() + piece.text);
    const bytes = Array.from(piece.text, (character) => byteOfCharacter.get(character));
    const isByteText = bytes.every((byte) => byte !== undefined);
    return asText(this.#utf8.push(isByteText ? Uint8Array.from(bytes) : new TextEncoder().encode(piece.text)));
  }

  flush(): Piece[] {
    return asText(this.#utf8.flush());
  }
}

class ByteFallbackStage implements Stage {
  readonly #utf8 = new Utf8Stream();

  push(piece: Piece): Piece[] {
    const byte = /^<0x([0-9A-Fa-f]{2})>$/.exec(piece.text)?.[1];
    if (byte !== undefined) return asText(this.#utf8.push(Uint8Array.of(Number.parseInt(byte, 16))));
    return [...asText(this.#utf8.flush()), piece];
  }

  flush(): Piece[] {
    return asText(this.#utf8.flush());
  }
}

class ReplaceStage implements Stage {
  readonly #pattern: string | RegExp;
  readonly #content: string;

  constructor(pattern: unknown, content: unknown) {
    if (!isJsonObject(pattern) || typeof content !== "string")
      throw new TypeError("Replace needs pattern and content");
    if (typeof pattern.String === "string") this.#pattern = pattern.String;
    else if (typeof pattern.Regex === "string") this.#pattern = new RegExp(pattern.Regex, "gu");
    else throw new TypeError("Replace.pattern must be a String or a Regex");
    this.#content = content;
  }

  push(piece: Piece): Piece[] {
    // A function, because a replacement text may hold "$&".
    return asText(piece.text.replaceAll(this.#pattern, () => this.#content));
  }

  flush(): Piece[] {
    return [];
  }
}

class MetaspaceStage implements Stage {
  readonly #replacement: string;
  #dropsSpace: boolean;

  constructor(replacement: unknown, dropsSpace: boolean) {
    if (typeof replacement !== "string" || replacement === "")
      throw new TypeError("Metaspace.replacement must be text");
    this.#replacement = replacement;
    this.#dropsSpace = dropsSpace;
  }

  push(piece: Piece): Piece[] {
    const text = piece.text.replaceAll(this.#replacement, " ");
    const drop = this.#dropsSpace && text.startsWith(" ");
    this.#dropsSpace = false;
    return asText(drop ? text.slice(1) : text);
  }

  flush(): Piece[] {
    return [];
  }
}

class StripStage implements Stage {
  readonly #content: string;
  readonly #start: number;
  readonly #stop: number;
  readonly #fused: boolean;
  #startLeft: number;
  #held = "";

  constructor(content: unknown, start: unknown, stop: unknown, fused: boolean) {
    const counts = [start ?? 0, stop ?? 0];
    if (
      typeof content !== "string" ||
      !counts.every((count) => Number.isInteger(count) && (count as number) >= 0)
    ) {
      throw new TypeError("Strip needs content, start and stop");
    }
    this.#content = content;
    [this.#start, this.#stop] = counts as [number, number];
    this.#fused = fused;
    this.#startLeft = this.#start;
  }

  push(piece: Piece): Piece[] {
    if (!this.#fused) {
      this.#startLeft = this.#start;
      this.#held = "";
    }
    let text = this.#held + piece.text;
    while (this.#startLeft > 0 && text !== "") {
      if (text[0] === this.#content) {
        text = text.slice(1);
        this.#startLeft--;
      } else this.#startLeft = 0;
    }
    let end = text.length;
    while (end > 0 && text.length - end < this.#stop && text[end - 1] === this.#content) end--;
    this.#held = text.slice(end);
    return asText(text.slice(0, end));
  }

  flush(): Piece[] {
    // What is held at the end is what the rule strips.
    this.#held = "";
    return [];
  }
}
