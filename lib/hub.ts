import { createHash, randomUUID } from "node:crypto";
import { createWriteStream } from "node:fs";
import { mkdir, readFile, rename, rm, stat, symlink, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join, relative } from "node:path";
import { Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import { downloadFile, getHFHubCachePath, getRepoFolderName, listFiles, modelInfo } from "@huggingface/hub";
import { invalidOption, LonghaulError, requireString, throwIfAborted } from "./errors.js";

/** Bytes of one file that have arrived. */
export interface DownloadProgress {
  readonly phase: "download";
  readonly file: string;
  readonly loaded: number;
  readonly total: number;
}

/** How `resolveModel` finds a model. */
export interface ResolveOptions {
  /** Branch, tag or commit on the hub. Default "main". */
  readonly revision?: string;
  /** Access token for private and gated models. Default: HF_TOKEN, else the token of `hf auth login`. */
  readonly token?: string;
  /** The hub's cache. Default: HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub. */
  readonly cacheDir?: string;
  /** Default: HF_ENDPOINT, else https://huggingface.co. */
  readonly hubUrl?: string;
  readonly onProgress?: (progress: DownloadProgress) => void;
  readonly signal?: AbortSignal;
}

interface HubFile {
  readonly path: string;
  readonly size: number;
  /** The name of the file's content in the cache: sha256 for large files, git's blob hash for the others. */
  readonly oid: string;
  readonly isLarge: boolean;
}

interface Session {
  readonly name: string;
  readonly revision: string;
  readonly storage: string;
  readonly hubUrl: string;
  readonly token: string | undefined;
  readonly fetch: typeof fetch;
  readonly onProgress: ((progress: DownloadProgress) => void) | undefined;
  readonly signal: AbortSignal | undefined;
}

const INDEX_FILE = "model.safetensors.index.json";
const SINGLE_FILE = "model.safetensors";
const SMALL_FILES = [
  "config.json",
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "chat_template.jinja",
];

/**
 * The directory of a model: `nameOrDirectory` itself when it is a directory, else the snapshot of the hub's model of
 * that name ("org/name"), of which missing files are downloaded into the cache that all Hugging Face tools share.
 * A file gets its name in the cache only once it is whole and its hash is right. With HF_HUB_OFFLINE=1 only the
 * cache is used. An aborted call rejects with the signal's reason.
 */
export async function resolveModel(nameOrDirectory: string, options: ResolveOptions = {}): Promise<string> {
  requireString("model", nameOrDirectory);
  throwIfAborted(options.signal);
  const found = await stat(nameOrDirectory).catch(() => null);
  if (found?.isDirectory()) return nameOrDirectory;
  if (found !== null)
    throw invalidOption("model", "a directory with config.json and *.safetensors, not a file", nameOrDirectory);
  if (!/^[A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*$/.test(nameOrDirectory) || nameOrDirectory.includes("..")) {
    throw invalidOption(
      "model",
      'an existing directory or a name on the hub such as "org/name"',
      nameOrDirectory,
    );
  }

  const session = openSession(nameOrDirectory, options);
  if (isSet(process.env.HF_HUB_OFFLINE)) return cachedSnapshot(session);
  try {
    return await downloadSnapshot(session);
  } catch (error) {
    throwIfAborted(options.signal);
    throw describeFailure(error, session);
  }
}

function openSession(name: string, options: ResolveOptions): Session {
  const revision = requireString("revision", options.revision ?? "main");
  if (revision.includes("..") || revision.startsWith("/"))
    throw invalidOption("revision", "a branch, tag or commit", revision);
  const cacheDir = requireString("cacheDir", options.cacheDir ?? getHFHubCachePath());
  const hubUrl = requireString(
    "hubUrl",
    options.hubUrl ?? (process.env.HF_ENDPOINT || "https://huggingface.co"),
  );
  if (!URL.canParse(hubUrl)) throw invalidOption("hubUrl", "a URL", hubUrl);
  const { signal } = options;
  return {
    name,
    revision,
    storage: join(cacheDir, getRepoFolderName({ type: "model", name })),
    hubUrl: hubUrl.replace(/\/+$/, ""),
    token: options.token,
    fetch: (input, init) => fetch(input, signal === undefined ? init : { ...init, signal }),
    onProgress: options.onProgress,
    signal,
  };
}

async function downloadSnapshot(opened: Session): Promise<string> {
  const session = { ...opened, token: opened.token ?? (await storedToken()) };
  const remote = remoteOf(session);
  const info = await modelInfo({
    ...remote,
    name: session.name,
    revision: session.revision,
    additionalFields: ["sha"],
  });
  const commit = info.sha;
  if (!isHash(commit)) throw new Error("the hub gave no commit for this revision");

  const files = new Map<string, HubFile>();
  for await (const entry of listFiles({ ...remote, repo: session.name, revision: commit })) {
    const oid = entry.lfs?.oid ?? entry.oid;
    if (entry.type !== "file" || entry.path.includes("/") || entry.path.startsWith(".")) continue;
    if (!isHash(oid)) throw new Error(`the hub gave no hash for ${entry.path}`);
    files.set(entry.path, { path: entry.path, size: entry.size, oid, isLarge: entry.lfs !== undefined });
  }

  const snapshot = join(session.storage, "snapshots", commit);
  const ensure = async (path: string) => {
    const file = files.get(path);
    if (file === undefined) throw missingFile(session, path);
    await ensureFile(session, snapshot, commit, file);
  };
  // Small files first: a model that cannot be used shows before gigabytes have come.
  await ensure("config.json");
  for (const path of SMALL_FILES) if (files.has(path)) await ensure(path);
  if (files.has(INDEX_FILE)) await ensure(INDEX_FILE);
  for (const path of await weightFiles(snapshot, [...files.keys()])) await ensure(path);

  if (session.revision !== commit) await writeReference(session, commit);
  return snapshot;
}

/** The weights to load: one file or the index's shards. Repositories often hold the same weights in other shapes too. */
async function weightFiles(snapshot: string, available: readonly string[]): Promise<string[]> {
  if (available.includes(INDEX_FILE)) {
    const path = join(snapshot, INDEX_FILE);
    let shards: unknown[];
    try {
      const index: { weight_map?: Record<string, unknown> } = JSON.parse(await readFile(path, "utf8"));
      shards = [...new Set(Object.values(index.weight_map ?? {}))];
    } catch (error) {
      throw new LonghaulError(
        "ERR_CORRUPT_FILE",
        `${path}: is not valid JSON; the model's author has to mend it`,
        { cause: error },
      );
    }
    const isPlainName = (shard: unknown): shard is string =>
      typeof shard === "string" && /^[\w-][\w.-]*$/.test(shard);
    if (shards.length > 0 && shards.every(isPlainName)) return shards;
    throw new LonghaulError(
      "ERR_CORRUPT_FILE",
      `${path}: "weight_map" must map tensors to file names; the model's author has to mend it`,
    );
  }
  if (available.includes(SINGLE_FILE)) return [SINGLE_FILE];
  const rest = available.filter((path) => path.endsWith(".safetensors"));
  return rest.length > 0 ? rest : [SINGLE_FILE];
}

async function ensureFile(session: Session, snapshot: string, commit: string, file: HubFile): Promise<void> {
  const pointer = join(snapshot, file.path);
  if (await exists(pointer)) return;
  const blob = join(session.storage, "blobs", file.oid);
  await mkdir(dirname(blob), { recursive: true });
  await mkdir(dirname(pointer), { recursive: true });
  if (!(await exists(blob))) await downloadBlob(session, commit, file, blob);
  try {
    await symlink(relative(dirname(pointer), blob), pointer);
  } catch (error) {
    // Another process that downloads the same model may have been faster.
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
  }
}

async function downloadBlob(session: Session, commit: string, file: HubFile, blob: string): Promise<void> {
  // Plain HTTP serves every file, also those that the hub keeps in its xet storage.
  const body = await downloadFile({
    ...remoteOf(session),
    repo: session.name,
    path: file.path,
    revision: commit,
    xet: false,
  });
  if (body === null) throw missingFile(session, file.path);

  const hash = createHash(file.isLarge ? "sha256" : "sha1");
  if (!file.isLarge) hash.update(`blob ${file.size}\0`);
  let loaded = 0;
  const report = () => session.onProgress?.({ phase: "download", file: file.path, loaded, total: file.size });
  const check = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      hash.update(chunk);
      loaded += chunk.length;
      report();
      done(null, chunk);
    },
  });
  const temporary = `${blob}.${randomUUID()}.incomplete`;
  try {
    report();
    await pipeline(body.stream(), check, createWriteStream(temporary), { signal: session.signal });
    if (loaded !== file.size) throw new Error(`${file.path}: ${loaded} of ${file.size} bytes came`);
    if (hash.digest("hex") !== file.oid)
      throw new Error(`${file.path}: the content does not have the hash ${file.oid}`);
    await rename(temporary, blob);
  } finally {
    await rm(temporary, { force: true });
  }
}

/** The snapshot that the cache holds of this revision, for work without a network. */
async function cachedSnapshot(session: Session): Promise<string> {
  const reference = join(session.storage, "refs", session.revision);
  const commit = isHash(session.revision)
    ? session.revision
    : await readFile(reference, "utf8").then(
        (text) => text.trim(),
        () => "",
      );
  const snapshot = join(session.storage, "snapshots", commit);
  const missing = isHash(commit) ? await firstMissing(snapshot) : "any file of it";
  if (missing === null) return snapshot;
  throw new LonghaulError(
    "ERR_COMMUNICATION",
    `HF_HUB_OFFLINE is set, and ${session.storage} lacks ${missing} of ${session.name} (revision ${session.revision}); ` +
      "unset HF_HUB_OFFLINE to download it",
  );
}

async function firstMissing(snapshot: string): Promise<string | null> {
  const sharded = await exists(join(snapshot, INDEX_FILE));
  if (!(await exists(join(snapshot, "config.json")))) return "config.json";
  const files = sharded ? await weightFiles(snapshot, [INDEX_FILE]) : [SINGLE_FILE];
  for (const file of files) if (!(await exists(join(snapshot, file)))) return file;
  return null;
}

async function writeReference(session: Session, commit: string): Promise<void> {
  const path = join(session.storage, "refs", session.revision);
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, commit);
}

async function storedToken(): Promise<string | undefined> {
  const { HF_TOKEN, HUGGING_FACE_HUB_TOKEN, HF_TOKEN_PATH, HF_HOME, XDG_CACHE_HOME } = process.env;
  const given = HF_TOKEN || HUGGING_FACE_HUB_TOKEN;
  if (given) return given;
  const home = HF_HOME || join(XDG_CACHE_HOME || join(homedir(), ".cache"), "huggingface");
  const text = await readFile(HF_TOKEN_PATH || join(home, "token"), "utf8").catch(() => "");
  return text.trim() || undefined;
}

function remoteOf(session: Session) {
  const { hubUrl, fetch, token } = session;
  return token === undefined ? { hubUrl, fetch } : { hubUrl, fetch, accessToken: token };
}

function describeFailure(error: unknown, session: Session): LonghaulError {
  if (error instanceof LonghaulError) return error;
  const message = error instanceof Error ? error.message : String(error);
  const status = (error as { statusCode?: unknown } | null)?.statusCode;
  const subject = `${session.name} (revision ${session.revision}) on ${session.hubUrl}`;
  if (status === 404) {
    const advice = "check the spelling of name and revision, or give the path of a local directory";
    return new LonghaulError("ERR_INVALID_ARGUMENT", `there is no ${subject}; ${advice}`, { cause: error });
  }
  if (status === 401 || status === 403) {
    const why = session.token === undefined ? "no token was given" : "the token that was given is not enough";
    const advice =
      "check the name; for a private or gated model accept its terms on the hub and give an access token (option token, or HF_TOKEN)";
    return new LonghaulError("ERR_INVALID_ARGUMENT", `no access to ${subject}, ${why}; ${advice}`, {
      cause: error,
    });
  }
  if (message.includes("must start with 'hf_'")) {
    return new LonghaulError(
      "ERR_INVALID_ARGUMENT",
      "token must be a Hugging Face access token, which starts with hf_",
      { cause: error },
    );
  }
  const code = (error as NodeJS.ErrnoException | null)?.code;
  if (code === "ENOSPC" || code === "EACCES" || code === "EROFS" || code === "ENOTDIR") {
    return new LonghaulError(
      "ERR_INVALID_ARGUMENT",
      `cannot write the cache ${session.storage}: ${message}; set cacheDir or HF_HUB_CACHE`,
      { cause: error },
    );
  }
  const advice =
    "check the network and try again; whole files are kept. HF_HUB_OFFLINE=1 uses what the cache has";
  return new LonghaulError("ERR_COMMUNICATION", `downloading ${subject} failed: ${message}; ${advice}`, {
    cause: error,
  });
}

function missingFile(session: Session, path: string): LonghaulError {
  return new LonghaulError(
    "ERR_INVALID_ARGUMENT",
    `${session.name} (revision ${session.revision}) has no ${path}; longhaul loads models in safetensors format with a config.json`,
  );
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

/** Hashes become file names, so nothing else may pass for one. */
function isHash(value: unknown): value is string {
  return typeof value === "string" && /^[0-9a-f]{40}([0-9a-f]{24})?$/.test(value);
}

function isSet(variable: string | undefined): boolean {
  return variable !== undefined && /^(1|true|yes|on)$/i.test(variable);
}
