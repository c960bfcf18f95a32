import { LonghaulError } from "../errors.js";
import { corruptFile, isJsonObject, type JsonObject } from "./files.js";
import { JsonReader } from "./json-reader.js";
import { checkPipeline } from "./tokenizer-pipeline.js";
import { Merges, Vocabulary } from "./vocabulary.js";

/** An entry of `added_tokens`: text that the tokenizer never splits. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
}

/** What tokenizer.json holds, once checked. */
export interface TokenizerFile {
  readonly path: string;
  /** Every member that the tokenizer library insists on. `model` lacks its vocabulary, unless it is a list, and merges. */
  readonly json: JsonObject & { readonly model: JsonObject };
  /** Added tokens too. */
  readonly vocabulary: Vocabulary;
  /** None but of a BPE model. */
  readonly merges: Merges;
  readonly added: readonly AddedToken[];
}

/** The bytes of one file, from its beginning at each call. */
export type OpenChunks = () => Iterable<Uint8Array>;

/** Ids index arrays here and embedding rows in the model; no vocabulary comes near this size. */
const MAX_TOKEN_ID = 2 ** 22;
const SPACE = 0x20;

/**
 * Reads tokenizer.json and checks it, since it comes from outside, as far as this package and the library rely on it.
 * The file is gone through three times, so that tables are made in their final size and merges find their tokens.
 */
export function readTokenizerFile(path: string, open: OpenChunks): TokenizerFile {
  try {
    return readChecked(path, open);
  } catch (error) {
    if (error instanceof LonghaulError) throw error;
    const problem = error instanceof SyntaxError ? "is not valid JSON" : "cannot be read";
    throw corruptFile(path, problem, error);
  }
}

function readChecked(path: string, open: OpenChunks): TokenizerFile {
  const { json, counted } = readOutline(path, open);
  json.added_tokens ??= [];
  const { model } = json;
  if (!isJsonObject(model)) throw corruptFile(path, '"model" must be an object');
  checkModel(path, model, counted);
  const added = readAddedTokens(path, json.added_tokens);
  const vocabulary = readVocabulary(path, open, { model, counted, added });
  const merges = model.type === "BPE" ? readMerges(path, open, { model, counted, vocabulary }) : new Merges(0);
  checkPipeline(path, json, vocabulary);
  return { path, json: { ...json, model }, vocabulary, merges, added };
}

/** What the large members of `model` hold; undefined for one that is absent or something else. */
interface Counted {
  vocab?: { tokens: number; units: number; ids: number };
  merges?: number;
}

/** Everything but the vocabulary, where it is an object, and the merges: these are counted. */
function readOutline(path: string, open: OpenChunks): { json: JsonObject; counted: Counted } {
  const counted: Counted = {};
  const reader = new JsonReader(open());
  const countLarge = (member: string): boolean => {
    const isVocabulary = member === "vocab" && reader.kind === "object";
    if (!isVocabulary && !(member === "merges" && reader.kind === "array")) return false;
    if (counted[isVocabulary ? "vocab" : "merges"] !== undefined) {
      throw corruptFile(path, `"model.${member}" is there twice`);
    }
    if (isVocabulary) counted.vocab = countVocabulary(path, reader);
    else {
      counted.merges = 0;
      reader.array((index) => {
        reader.skip();
        counted.merges = index + 1;
      });
    }
    return true;
  };
  if (reader.kind !== "object") throw corruptFile(path, "must hold a JSON object");
  const json = collect(reader, (member) => {
    if (member !== "model" || reader.kind !== "object") return reader.value();
    return collect(reader, (inner) => (countLarge(inner) ? undefined : reader.value()));
  });
  reader.end();
  return { json, counted };
}

/** An object of what `read` returns for each member; members for which it returns undefined are left out. */
function collect(reader: JsonReader, read: (member: string) => unknown): JsonObject {
  const entries: [string, unknown][] = [];
  reader.object((member) => {
    const value = read(member);
    if (value !== undefined) entries.push([member, value]);
  });
  return Object.fromEntries(entries);
}

function countVocabulary(path: string, reader: JsonReader): NonNullable<Counted["vocab"]> {
  const size = { tokens: 0, units: 0, ids: 0 };
  reader.members((length) => {
    size.tokens++;
    size.units += length;
    const id = reader.value();
    if (!isTokenId(id)) {
      const token = JSON.stringify(String.fromCharCode(...reader.units.subarray(0, length)));
      throw corruptFile(path, `model.vocab: the id of ${token} must be an integer from 0`);
    }
    size.ids = Math.max(size.ids, id + 1);
  });
  return size;
}

function isTokenId(id: unknown): id is number {
  return Number.isInteger(id) && (id as number) >= 0 && (id as number) <= MAX_TOKEN_ID;
}

function checkModel(path: string, model: JsonObject, counted: Counted): void {
  const { type, vocab } = model;
  if (type !== "BPE" && type !== "WordPiece" && type !== "Unigram") {
    throw corruptFile(path, `"model.type" must be BPE, Unigram or WordPiece, got ${JSON.stringify(type)}`);
  }
  if (type === "Unigram") {
    if (!Array.isArray(vocab)) throw corruptFile(path, '"model.vocab" of a Unigram model must be an array');
    for (const [id, entry] of vocab.entries()) {
      if (!Array.isArray(entry) || typeof entry[0] !== "string" || !Number.isFinite(entry[1])) {
        throw corruptFile(path, `model.vocab[${id}] must be a pair of token and score`);
      }
    }
    if (!isTokenId(model.unk_id) || model.unk_id >= vocab.length) {
      throw corruptFile(path, '"model.unk_id" must be the id of a token');
    }
    return;
  }
  if (counted.vocab === undefined)
    throw corruptFile(path, `"model.vocab" of a ${type} model must be an object`);
  const unknown = model.unk_token ?? null;
  if (unknown !== null && typeof unknown !== "string")
    throw corruptFile(path, '"model.unk_token" must be a string');
  if (type === "BPE" && counted.merges === undefined)
    throw corruptFile(path, '"model.merges" of a BPE model must be an array');
}

/** Calls `onValue` where `member` of the model comes; it must consume it. */
function readLarge(open: OpenChunks, member: string, onValue: (reader: JsonReader) => void): void {
  const reader = new JsonReader(open());
  reader.object((outer) => {
    if (outer !== "model") reader.skip();
    else reader.object((inner) => (inner === member ? onValue(reader) : reader.skip()));
  });
}

interface Known {
  readonly model: JsonObject;
  readonly counted: Counted;
}

function readVocabulary(
  path: string,
  open: OpenChunks,
  { model, counted, added }: Known & { readonly added: readonly AddedToken[] },
): Vocabulary {
  const listed = model.type === "Unigram" ? (model.vocab as [string, number][]) : [];
  const { vocab = { tokens: 0, units: 0, ids: 0 } } = model.type === "Unigram" ? {} : counted;
  const texts = [...listed.map(([content], id) => ({ content, id })), ...added];
  const vocabulary = new Vocabulary({
    tokens: vocab.tokens + texts.length,
    units: texts.reduce((sum, { content }) => sum + content.length, vocab.units),
    ids: texts.reduce((ids, { id }) => Math.max(ids, id + 1), vocab.ids),
  });
  if (vocab.tokens > 0) {
    readLarge(open, "vocab", (reader) =>
      reader.members((length) => vocabulary.add(reader.units, 0, length, reader.value() as number)),
    );
  }
  // Added tokens come last: where the model has their ids as well, theirs is the text.
  for (const { content, id } of texts) vocabulary.addText(content, id);
  if (vocabulary.ids === 0) throw corruptFile(path, "the vocabulary is empty");
  return vocabulary;
}

function readMerges(
  path: string,
  open: OpenChunks,
  { model, counted, vocabulary }: Known & { readonly vocabulary: Vocabulary },
): Merges {
  const merges = new Merges(counted.merges ?? 0);
  const hasPrefix = (model.continuing_subword_prefix ?? "") !== "";
  readLarge(open, "merges", (reader) => {
    let format: string | undefined;
    reader.array((index) => {
      format ??= reader.kind;
      const ends = reader.kind === format ? readPair(reader) : null;
      if (ends === null) throw corruptFile(path, `model.merges[${index}] must be a pair of tokens`);
      const left = vocabulary.find(reader.units, 0, ends[0]);
      const right = vocabulary.find(reader.units, ends[0], ends[1]);
      const isMerged = hasPrefix || vocabulary.find(reader.units, 0, ends[1]) !== undefined;
      if (left === undefined || right === undefined || !isMerged) {
        throw corruptFile(path, `model.merges[${index}] has a token that the vocabulary lacks`);
      }
      merges.add(left, right);
    });
  });
  return merges;
}

/** Reads ["a", "b"] or "a b" into the reader's units, one behind the other. Returns where each ends, or null. */
function readPair(reader: JsonReader): [number, number] | null {
  const ends: number[] = [];
  if (reader.kind === "array") {
    let isPair = true;
    reader.array(() => {
      isPair &&= reader.kind === "string" && ends.length < 2;
      if (isPair) ends.push(reader.string(ends[0]));
      else reader.skip();
    });
    return isPair && ends.length === 2 ? (ends as [number, number]) : null;
  }
  if (reader.kind !== "string") return null;
  const end = reader.string();
  const space = reader.units.indexOf(SPACE);
  if (space < 0 || space >= end || reader.units.subarray(space + 1, end).includes(SPACE)) return null;
  reader.units.copyWithin(space, space + 1, end);
  return [space, end - 1];
}

function readAddedTokens(path: string, entries: unknown): AddedToken[] {
  if (!Array.isArray(entries)) throw corruptFile(path, '"added_tokens" must be an array');
  return entries.map((entry: unknown, index) => {
    const where = `added_tokens[${index}]`;
    if (!isJsonObject(entry)) throw corruptFile(path, `${where} must be an object`);
    const { id, content, special = false } = entry;
    if (typeof content !== "string" || content === "") throw corruptFile(path, `${where}.content must be text`);
    if (!isTokenId(id)) throw corruptFile(path, `${where}.id must be an integer from 0`);
    if (typeof special !== "boolean") throw corruptFile(path, `${where}.special must be true or false`);
    return { id, content, special };
  });
}
