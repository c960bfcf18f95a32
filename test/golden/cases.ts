// Finds cases as the golden program does (test/native/golden/cases.cc).
import { existsSync, readdirSync, readFileSync, realpathSync } from "node:fs";
import { basename, dirname, join, relative } from "node:path";

/** One folder with a case.json. */
export interface Case {
  readonly directory: string;
  /** The folder of index.json at or above what was asked for; without one, that itself. */
  readonly root: string;
  readonly name: string;
  /** Asked for by its own path, not found below one. */
  readonly named: boolean;
  /** Undefined when case.json cannot be read. */
  readonly kind: string | undefined;
  // biome-ignore lint/suspicious/noExplicitAny: whoever reads a member checks it by comparing.
  readonly json: any;
}

/** Every case in and below `path`, a folder or a case.json. */
export function findCases(path: string): Case[] {
  let start = realpathSync(path);
  if (basename(start) === "case.json") start = dirname(start);
  const root = rootOf(start);
  return foldersBelow(start).map((directory) => {
    const json = readCase(directory);
    return {
      directory,
      root,
      name: relative(root, directory) || basename(directory),
      named: directory === start,
      kind: typeof json?.kind === "string" ? json.kind : undefined,
      json,
    };
  });
}

function rootOf(directory: string): string {
  for (let at = directory; ; at = dirname(at)) {
    if (existsSync(join(at, "index.json"))) return at;
    if (at === dirname(at)) return directory;
  }
}

function foldersBelow(directory: string): string[] {
  const here = existsSync(join(directory, "case.json")) ? [directory] : [];
  const below = readdirSync(directory, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => entry.name)
    .sort();
  return here.concat(below.flatMap((name) => foldersBelow(join(directory, name))));
}

/** Undefined when broken: telling so is the golden program's part, which reads every case.json. */
function readCase(directory: string): { kind?: unknown } | undefined {
  try {
    return JSON.parse(readFileSync(join(directory, "case.json"), "utf8"));
  } catch {
    return undefined;
  }
}
