import { join } from "node:path";
import { invalidOption, LonghaulError, requireString } from "../errors.js";
import { corruptFile, isJsonObject, type JsonObject, readChunks, readOptionalJson } from "./files.js";
import { PieceDecoder } from "./stream-decoder.js";
import { type OpenChunks, readTokenizerFile, type TokenizerFile } from "./tokenizer-file.js";
import {
  createLibraryTokenizer,
  createModel,
  type LibraryModel,
  type LibraryTokenizer,
} from "./tokenizer-model.js";
import type { Vocabulary } from "./vocabulary.js";

/** How `Tokenizer.encode` treats a text. */
export interface EncodeOptions {
  /**
   * Whether the tokenizer adds its own tokens (BOS and the like). True suits a plain prompt; chat text has them
   * already, and with true BOS would stand there twice. Default true.
   */
  readonly addSpecialTokens?: boolean;
  /**
   * True for text that goes on where a stream of tokens stands: no space is put in front of it, as tokenizers of
   * the Llama 2 family do at the start of a text. Default false.
   */
  readonly continuation?: boolean;
}

/** How token ids become text. */
export interface DecodeOptions {
  /** Leaves out special tokens such as `<|im_end|>`. Default false. */
  readonly skipSpecialTokens?: boolean;
}

/** The tokens that a model's files name by role; null where they name none. */
export interface NamedTokens {
  readonly bos: string | null;
  readonly eos: string | null;
  readonly unk: string | null;
  readonly pad: string | null;
}

/** The files that a `Tokenizer` is made from: tokenizer.json in chunks, since it is large, the others parsed or null. */
export interface TokenizerSources {
  readonly directory: string;
  readonly tokenizer: OpenChunks;
  readonly tokenizerConfig: JsonObject | null;
  readonly generationConfig: JsonObject | null;
  readonly modelConfig: JsonObject | null;
}

/** Exercises every stage (digits, white space, accents, several bytes a character), so that a broken file fails on load. */
const PROBE_TEXT = "Hello, world! 12 na\u00efve \u6771\u4eac \u{1f642}\n\n  x";

/** Text to token ids and back, as the model's tokenizer.json defines it. */
export class Tokenizer {
  /** The model directory it was loaded from. */
  readonly directory: string;
  /** One more than the largest token id. The model's embedding may have more rows than this, as padding. */
  readonly vocabularySize: number;
  /** Bytes of the tables of tokens and merges. */
  readonly tableBytes: number;
  readonly named: NamedTokens;
  /** The id that begins a text, or null for models without one. */
  readonly bosTokenId: number | null;
  /** Ids that end an answer: those of generation_config.json, else of config.json, else the tokenizer's own EOS. */
  readonly stopTokenIds: ReadonlySet<number>;
  /** Ids of tokens that are marks rather than text. */
  readonly specialTokenIds: ReadonlySet<number>;
  readonly #file: TokenizerFile;
  readonly #addedIds: ReadonlySet<number>;
  readonly #model: LibraryModel;
  readonly #library: LibraryTokenizer;
  #unprefixed: LibraryTokenizer | undefined;

  /** Reads tokenizer.json, and where they exist tokenizer_config.json, generation_config.json and config.json. */
  static async load(directory: string): Promise<Tokenizer> {
    const [tokenizerConfig, generationConfig, modelConfig] = await Promise.all([
      readOptionalJson(join(directory, "tokenizer_config.json")),
      readOptionalJson(join(directory, "generation_config.json")),
      readOptionalJson(join(directory, "config.json")),
    ]);
    const tokenizer = () => readChunks(join(directory, "tokenizer.json"));
    return new Tokenizer({ directory, tokenizer, tokenizerConfig, generationConfig, modelConfig });
  }

  constructor(sources: TokenizerSources) {
    this.directory = sources.directory;
    this.#file = readTokenizerFile(join(sources.directory, "tokenizer.json"), sources.tokenizer);
    const { vocabulary, merges, added, json } = this.#file;
    this.vocabularySize = vocabulary.ids;
    this.tableBytes = vocabulary.bytes + merges.bytes;
    this.specialTokenIds = new Set(added.filter((token) => token.special).map((token) => token.id));
    this.#addedIds = new Set(added.map((token) => token.id));
    this.named = readNamedTokens(sources, vocabulary);
    this.bosTokenId = this.named.bos === null ? null : (vocabulary.get(this.named.bos) ?? null);
    this.stopTokenIds = readStopTokenIds(
      sources,
      this.named.eos === null ? undefined : vocabulary.get(this.named.eos),
    );
    this.#model = this.#guard("cannot be used as a tokenizer", () => createModel(this.#file));
    this.#library = this.#createLibrary(json);
    for (const addSpecialTokens of [true, false]) this.encode(PROBE_TEXT, { addSpecialTokens });
  }

  /** The token ids of `text`. Text of added tokens inside it, such as `<|im_end|>`, becomes those tokens. */
  encode(text: string, { addSpecialTokens = true, continuation = false }: EncodeOptions = {}): number[] {
    requireString("text", text, { allowEmpty: true });
    if (!continuation) return this.#encodeWith(this.#library, text, addSpecialTokens);
    // Only the words up to the first added token go on from the stream: what follows one begins a section of its own.
    const cut = this.#indexOfAddedToken(text);
    const head = cut === 0 ? [] : this.#encodeWith(this.#withoutPrefix(), text.slice(0, cut), false);
    return cut === text.length ? head : head.concat(this.#encodeWith(this.#library, text.slice(cut), false));
  }

  /**
   * The text of `ids`, exactly as the model wrote it: unlike some libraries it never "cleans up" spaces before
   * punctuation, since the text must stay what the cache holds. Ids that no token has (padding of the model's
   * vocabulary) have no text.
   */
  decode(ids: Iterable<number>, options: DecodeOptions = {}): string {
    const stream = this.streamDecoder(options);
    let text = "";
    for (const id of ids) text += stream.push(id);
    return text + stream.flush();
  }

  /**
   * A decoder for ids that come one by one. `prefix` is what precedes them in the stream (its last few tokens are
   * enough): without it the first word of an answer may lose its space.
   */
  streamDecoder({
    prefix = [],
    ...options
  }: DecodeOptions & { readonly prefix?: Iterable<number> } = {}): StreamDecoder {
    const decoder = this.#guard(
      "has a decoder that cannot be used",
      () => new PieceDecoder(this.#file.json.decoder),
    );
    // Special tokens of the prefix count even where those of the stream are left out: after one, a text has begun.
    for (const id of prefix) {
      const piece = this.#piece(id, false);
      if (piece !== null) decoder.push(piece);
    }
    return new StreamDecoder(decoder, (id) => this.#piece(id, options.skipSpecialTokens ?? false));
  }

  /** The token's own spelling in the vocabulary, or undefined for an id without a token. */
  idToToken(id: number): string | undefined {
    return this.#file.vocabulary.token(id);
  }

  /** The id of the token spelled `token` in the vocabulary, or undefined. */
  tokenToId(token: string): number | undefined {
    return this.#file.vocabulary.get(token);
  }

  #piece(id: number, skipSpecialTokens: boolean): { text: string; added: boolean } | null {
    if (!Number.isSafeInteger(id) || id < 0) throw invalidOption("a token id", "an integer from 0", id);
    const text = this.#file.vocabulary.token(id);
    if (text === undefined || (skipSpecialTokens && this.specialTokenIds.has(id))) return null;
    return { text, added: this.#addedIds.has(id) };
  }

  #encodeWith(library: LibraryTokenizer, text: string, addSpecialTokens: boolean): number[] {
    const encoding: { ids: number[] } = this.#guard("failed to encode a text", () =>
      library.encode(text, { add_special_tokens: addSpecialTokens }),
    );
    if (!encoding.ids.every((id) => Number.isInteger(id))) {
      throw corruptFile(this.#file.path, "yields tokens that its vocabulary lacks");
    }
    return encoding.ids;
  }

  #indexOfAddedToken(text: string): number {
    let first = text.length;
    for (const { content } of this.#file.added) {
      const index = text.indexOf(content);
      if (index >= 0 && index < first) first = index;
    }
    return first;
  }

  #withoutPrefix(): LibraryTokenizer {
    const { normalizer, pre_tokenizer } = this.#file.json;
    this.#unprefixed ??= this.#createLibrary({
      ...this.#file.json,
      normalizer: unprefix(normalizer),
      pre_tokenizer: unprefix(pre_tokenizer),
    });
    return this.#unprefixed;
  }

  #createLibrary(json: JsonObject): LibraryTokenizer {
    return this.#guard("cannot be used as a tokenizer", () => createLibraryTokenizer(json, this.#model));
  }

  /** The library trusts the file: whatever it throws is the file's fault. */
  #guard<T>(problem: string, action: () => T): T {
    try {
      return action();
    } catch (error) {
      if (error instanceof LonghaulError) throw error;
      throw corruptFile(this.#file.path, problem, error);
    }
  }
}

/** Turns ids into text as they come; made by `Tokenizer.streamDecoder`. */
export class StreamDecoder {
  readonly #decoder: PieceDecoder;
  readonly #pieceOf: (id: number) => { text: string; added: boolean } | null;

  constructor(decoder: PieceDecoder, pieceOf: (id: number) => { text: string; added: boolean } | null) {
    this.#decoder = decoder;
    this.#pieceOf = pieceOf;
  }

  /** The text that is certain now. A character whose bytes are not all there yet is held back. */
  push(id: number): string {
    const piece = this.#pieceOf(id);
    return piece === null ? "" : this.#decoder.push(piece);
  }

  /** The rest of the text. Afterwards the decoder is spent. */
  flush(): string {
    return this.#decoder.flush();
  }
}

/** The same normalizer or pre-tokenizer without the step that puts a space in front of a text; null when nothing is left. */
function unprefix(step: unknown): unknown {
  if (!isJsonObject(step)) return step;
  if (step.type === "Prepend") return null;
  if (step.type === "Metaspace") return { ...step, prepend_scheme: "never" };
  if (step.type === "ByteLevel") return { ...step, add_prefix_space: false };
  if (step.type !== "Sequence") return step;
  const keep = (steps: unknown) =>
    Array.isArray(steps) ? steps.map(unprefix).filter((inner) => inner !== null) : steps;
  const { normalizers, pretokenizers } = step;
  return {
    ...step,
    ...(normalizers === undefined ? {} : { normalizers: keep(normalizers) }),
    ...(pretokenizers === undefined ? {} : { pretokenizers: keep(pretokenizers) }),
  };
}

function readNamedTokens(sources: TokenizerSources, vocabulary: Vocabulary): NamedTokens {
  const path = join(sources.directory, "tokenizer_config.json");
  const read = (key: string): string | null => {
    // Without tokenizer_config.json the model's own config still gives the ids.
    const id = sources.generationConfig?.[`${key}_id`] ?? sources.modelConfig?.[`${key}_id`];
    if (sources.tokenizerConfig === null) return typeof id === "number" ? (vocabulary.token(id) ?? null) : null;
    const value = sources.tokenizerConfig[key] ?? null;
    // An added token is written out as an object with its flags.
    const token = isJsonObject(value) ? value.content : value;
    if (token !== null && typeof token !== "string") throw corruptFile(path, `"${key}" must be a token`);
    return token;
  };
  return { bos: read("bos_token"), eos: read("eos_token"), unk: read("unk_token"), pad: read("pad_token") };
}

function readStopTokenIds(sources: TokenizerSources, eos: number | undefined): ReadonlySet<number> {
  const configs = [
    ["generation_config.json", sources.generationConfig],
    ["config.json", sources.modelConfig],
  ] as const;
  for (const [name, config] of configs) {
    const value = config?.eos_token_id ?? null;
    if (value === null) continue;
    const ids: unknown[] = Array.isArray(value) ? value : [value];
    if (!ids.every((id) => Number.isSafeInteger(id) && (id as number) >= 0)) {
      throw corruptFile(join(sources.directory, name), '"eos_token_id" must be a token id or a list of them');
    }
    return new Set(ids as number[]);
  }
  return new Set(eos === undefined ? [] : [eos]);
}
