import { createHash } from "node:crypto";
import { access, constants, readFile, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { invalidOption, LonghaulError } from "./errors.js";
import type { LayerProfile } from "./layer-profile.js";
import { replaceFile } from "./replace-file.js";

/** What tells whether a profile is of this model. */
export interface ProfiledModel {
  readonly directory: string;
  readonly architecture: string;
  readonly layers: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

const FILE = "longhaul-profile.json";
const FORMAT = "longhaul-profile";
const VERSION = 1;

/** Where a model's profile is looked for. */
export function profilePath({ directory }: Pick<ProfiledModel, "directory">): string {
  return join(directory, FILE);
}

/** Throws ERR_INVALID_ARGUMENT where no file could be written: a profile takes minutes, and this none. */
export async function requireWritable(path: string): Promise<void> {
  try {
    await access(dirname(path), constants.R_OK | constants.W_OK);
    const found = await stat(path).catch(() => null);
    if (found !== null && !found.isFile()) throw new Error("it is there and is no file");
  } catch (error) {
    throw cannotWrite(path, error);
  }
}

/** Writes a profile. Whatever happens, `path` is the file that was there before or the new one, whole. */
export async function writeProfile(path: string, profile: LayerProfile, model: ProfiledModel): Promise<void> {
  if (typeof profile !== "object" || profile === null)
    throw invalidOption("profile", "what engine.profile resolved with", profile);
  const { similarity, tokens, texts, sinks, window, block } = profile;
  if (!isSimilarity(similarity, model.layers))
    throw invalidOption("profile.similarity", expectedSimilarity(model.layers), similarity);
  const document = {
    format: FORMAT,
    version: VERSION,
    model: await fingerprint(model),
    options: { sinks, window, block },
    texts,
    tokens,
    similarity,
  };
  try {
    await replaceFile(path, (file) => file.writeFile(`${JSON.stringify(document, null, 2)}\n`));
  } catch (error) {
    throw cannotWrite(path, error);
  }
}

/**
 * The similarities that a profile holds, one a layer. ERR_INVALID_ARGUMENT when there is no file, ERR_CORRUPT_FILE when
 * it is no profile or another model's, ERR_UNSUPPORTED when a newer longhaul wrote it.
 */
export async function readProfile(path: string, model: ProfiledModel): Promise<number[]> {
  const advice = `make one with: longhaul profile ${model.directory} --text FILE`;
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const why = code === "ENOENT" ? "there is no layer profile" : `cannot be read (${message})`;
    throw new LonghaulError("ERR_INVALID_ARGUMENT", `${path}: ${why}; ${advice}`, { cause: error });
  }
  const corrupt = (why: string) => new LonghaulError("ERR_CORRUPT_FILE", `${path}: ${why}; ${advice}`);

  const document = parseObject(text);
  if (document?.format !== FORMAT) throw corrupt("is not a layer profile");
  if (Number.isInteger(document.version) && (document.version as number) > VERSION) {
    throw new LonghaulError(
      "ERR_UNSUPPORTED",
      `${path}: is a layer profile of version ${document.version}, and this longhaul reads ${VERSION}; ${advice}`,
    );
  }
  if (document.version !== VERSION) throw corrupt("has no version that is known");
  const own = Object.entries(await fingerprint(model));
  const its = asObject(document.model);
  const differing = own.filter(([name, value]) => its?.[name] !== value).map(([name]) => name);
  if (differing.length > 0) throw corrupt(`is the profile of another model (${differing.join(", ")} differ)`);
  const { similarity } = document;
  if (!isSimilarity(similarity, model.layers))
    throw corrupt(`similarity is not ${expectedSimilarity(model.layers)}`);
  return similarity;
}

async function fingerprint({ directory, architecture, layers, kvHeads, headDim }: ProfiledModel) {
  const path = join(directory, "config.json");
  const config = await readFile(path).catch((error: Error) => {
    throw new LonghaulError("ERR_INVALID_ARGUMENT", `${path}: cannot be read any more (${error.message})`, {
      cause: error,
    });
  });
  const configSha256 = createHash("sha256").update(config).digest("hex");
  return { architecture, layers, kvHeads, headDim, configSha256 };
}

function cannotWrite(path: string, error: unknown): LonghaulError {
  return new LonghaulError(
    "ERR_INVALID_ARGUMENT",
    `cannot write ${path}: ${(error as Error).message}; choose another file`,
    { cause: error },
  );
}

type Fields = { readonly [name: string]: unknown };

function parseObject(text: string): Fields | undefined {
  try {
    return asObject(JSON.parse(text));
  } catch {
    return undefined; // no JSON, so no profile
  }
}

const asObject = (value: unknown): Fields | undefined =>
  typeof value === "object" && value !== null ? (value as Fields) : undefined;

const expectedSimilarity = (layers: number) => `a number from -1 to 1 for each of the model's ${layers} layers`;

function isSimilarity(value: unknown, layers: number): value is number[] {
  const isCosine = (one: unknown) => typeof one === "number" && one >= -1 && one <= 1;
  return Array.isArray(value) && value.length === layers && value.every(isCosine);
}
