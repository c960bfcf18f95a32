import { corruptFile, isJsonObject, type JsonObject } from "./files.js";
import type { Vocabulary } from "./vocabulary.js";

// What this package and the tokenizer library rely on in the steps around the model.

const MAX_NESTING = 16;

/** Checks the normalizer, pre-tokenizer, post-processor and decoder of tokenizer.json; absent ones become null. */
export function checkPipeline(path: string, json: JsonObject, vocabulary: Vocabulary): void {
  for (const member of ["normalizer", "pre_tokenizer", "post_processor", "decoder"]) {
    json[member] ??= null;
    if (json[member] !== null && !isJsonObject(json[member])) {
      throw corruptFile(path, `"${member}" must be an object or null`);
    }
  }
  checkSteps(path, json.normalizer, "normalizers", checkPattern);
  checkSteps(path, json.pre_tokenizer, "pretokenizers", checkPattern);
  checkSteps(path, json.post_processor, "processors", (_path, step) =>
    checkPostProcessor(path, step, vocabulary),
  );
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
function checkPostProcessor(path: string, processor: JsonObject, vocabulary: Vocabulary): void {
  if (processor.type !== "TemplateProcessing") return;
  if (!Array.isArray(processor.single)) throw corruptFile(path, '"post_processor.single" must be an array');
  for (const item of processor.single) {
    if (!isJsonObject(item)) throw corruptFile(path, '"post_processor.single" must hold objects');
    if (item.SpecialToken === undefined) continue;
    const name = isJsonObject(item.SpecialToken) ? item.SpecialToken.id : undefined;
    if (typeof name !== "string" || !vocabulary.has(name)) {
      throw corruptFile(path, `post_processor adds ${JSON.stringify(name)}, which the vocabulary lacks`);
    }
  }
}
