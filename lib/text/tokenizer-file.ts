import { corruptFile, isJsonObject, type JsonObject } from "./files.js";

/** An entry of `added_tokens`: text that the tokenizer never splits. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
}

/** What tokenizer.json holds, once checked. `json` has every member that the tokenizer library insists on. */
export interface TokenizerFile {
  readonly path: string;
  readonly json: JsonObject;
  /** Token text by id; ids that no token has are undefined. */
  readonly tokens: readonly (string | undefined)[];
  readonly ids: ReadonlyMap<string, number>;
  readonly added: readonly AddedToken[];
}

/** Ids index arrays here and embedding rows in the model; no vocabulary comes near this size. */
const MAX_TOKEN_ID = 2 ** 22;
const MAX_NESTING = 16;

/** Checks the content of tokenizer.json, which comes from outside, as far as this package and the library rely on it. */
export function checkTokenizerFile(path: string, source: JsonObject): TokenizerFile {
  const json: JsonObject = { ...source };
  for (const member of ["normalizer", "pre_tokenizer", "post_processor", "decoder"]) {
    json[member] ??= null;
    if (json[member] !== null && !isJsonObject(json[member])) {
      throw corruptFile(path, `"${member}" must be an object or null`);
    }
  }
  json.added_tokens ??= [];
  const tokens: (string | undefined)[] = [];
  const ids = new Map<string, number>();
  const define = (content: unknown, id: unknown, where: string) => {
    if (typeof content !== "string") throw corruptFile(path, `${where}: the token must be a string`);
    if (!isTokenId(id))
      throw corruptFile(path, `${where}: the id of ${JSON.stringify(content)} must be an integer from 0`);
    tokens[id] = content;
    ids.set(content, id);
  };

  if (!isJsonObject(json.model)) throw corruptFile(path, '"model" must be an object');
  readVocabulary(path, json.model, define);
  if (json.model.type === "BPE") checkMerges(path, json.model, ids);
  const added = readAddedTokens(path, json.added_tokens);
  for (const [index, token] of added.entries()) define(token.content, token.id, `added_tokens[${index}]`);
  if (tokens.length === 0) throw corruptFile(path, "the vocabulary is empty");
  checkSteps(path, json.normalizer, "normalizers", checkPattern);
  checkSteps(path, json.pre_tokenizer, "pretokenizers", checkPattern);
  checkSteps(path, json.post_processor, "processors", (_path, step) => checkPostProcessor(path, step, ids));
  return { path, json, tokens, ids, added };
}

function isTokenId(id: unknown): id is number {
  return Number.isInteger(id) && (id as number) >= 0 && (id as number) <= MAX_TOKEN_ID;
}

function readVocabulary(
  path: string,
  model: JsonObject,
  define: (content: unknown, id: unknown, where: string) => void,
): void {
  const { type, vocab } = model;
  if (type !== "BPE" && type !== "WordPiece" && type !== "Unigram") {
    throw corruptFile(path, `"model.type" must be BPE, Unigram or WordPiece, got ${JSON.stringify(type)}`);
  }
  if (type === "Unigram") {
    if (!Array.isArray(vocab)) throw corruptFile(path, '"model.vocab" of a Unigram model must be an array');
    for (const [id, entry] of vocab.entries()) {
      if (!Array.isArray(entry) || !Number.isFinite(entry[1])) {
        throw corruptFile(path, `model.vocab[${id}] must be a pair of token and score`);
      }
      define(entry[0], id, `model.vocab[${id}]`);
    }
    if (!isTokenId(model.unk_id) || model.unk_id >= vocab.length) {
      throw corruptFile(path, '"model.unk_id" must be the id of a token');
    }
    return;
  }
  if (!isJsonObject(vocab)) throw corruptFile(path, `"model.vocab" of a ${type} model must be an object`);
  for (const [content, id] of Object.entries(vocab)) define(content, id, "model.vocab");
  const unknown = model.unk_token ?? null;
  if (unknown !== null && typeof unknown !== "string")
    throw corruptFile(path, '"model.unk_token" must be a string');
}

function checkMerges(path: string, model: JsonObject, ids: ReadonlyMap<string, number>): void {
  if (!Array.isArray(model.merges)) throw corruptFile(path, '"model.merges" of a BPE model must be an array');
  const asPairs = Array.isArray(model.merges[0]);
  const prefix = model.continuing_subword_prefix ?? "";
  for (const [index, merge] of model.merges.entries()) {
    const pair: unknown = asPairs ? merge : typeof merge === "string" ? merge.split(" ") : merge;
    const isPair = Array.isArray(pair) && pair.length === 2 && pair.every((part) => typeof part === "string");
    if (!isPair) throw corruptFile(path, `model.merges[${index}] must be a pair of tokens`);
    const [left, right] = pair as [string, string];
    const known = ids.has(left) && ids.has(right) && (prefix !== "" || ids.has(left + right));
    if (!known) throw corruptFile(path, `model.merges[${index}] has a token that the vocabulary lacks`);
  }
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

/** Calls `check` for a step and, in a sequence, for all inside it. */
function checkSteps(
  path: string,
  step: unknown,
  members: string,
  check: (path: string, step: JsonObject) => void,
  depth = 0,
): void {
  if (!isJsonObject(step)) return;
  if (depth > MAX_NESTING) throw corruptFile(path, `"${members}" are nested too deeply`);
  check(path, step);
  const inner = step[members];
  if (step.type !== "Sequence" || inner === undefined) return;
  if (!Array.isArray(inner)) throw corruptFile(path, `"${members}" must be an array`);
  for (const next of inner) checkSteps(path, next, members, check, depth + 1);
}

/** Where the library finds no pattern it only prints a warning, and then loses text. */
function checkPattern(path: string, { type, pattern }: JsonObject): void {
  if (type !== "Split" && type !== "Replace") return;
  if (isJsonObject(pattern) && (typeof pattern.Regex === "string" || typeof pattern.String === "string"))
    return;
  throw corruptFile(path, `the pattern of a ${type} must be a Regex or a String`);
}

/** The library looks special tokens up by their text, and would put `undefined` among the ids for one it lacks. */
function checkPostProcessor(path: string, processor: JsonObject, ids: ReadonlyMap<string, number>): void {
  if (processor.type !== "TemplateProcessing") return;
  if (!Array.isArray(processor.single)) throw corruptFile(path, '"post_processor.single" must be an array');
  for (const item of processor.single) {
    if (!isJsonObject(item)) throw corruptFile(path, '"post_processor.single" must hold objects');
    if (item.SpecialToken === undefined) continue;
    const name = isJsonObject(item.SpecialToken) ? item.SpecialToken.id : undefined;
    if (typeof name !== "string" || !ids.has(name)) {
      throw corruptFile(path, `post_processor adds ${JSON.stringify(name)}, which the vocabulary lacks`);
    }
  }
}
