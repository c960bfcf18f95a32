// Bundles lib/ into dist/ with tsdown, unless dist/ is newer than everything it is made from.
import { existsSync, readdirSync, rmSync, statSync } from "node:fs";
import path from "node:path";
import { root, runTool } from "./shared.mjs";

const ENTRIES = ["index", "openai", "express", "fastify"];
const OUTPUTS = [
  ...ENTRIES.flatMap((entry) => ["mjs", "cjs", "d.mts", "d.cts"].map((ending) => `${entry}.${ending}`)),
  "cli.mjs",
  "solver-worker.mjs",
];
const INPUTS = ["lib", "tsdown.config.ts", "tsconfig.json", "package.json", "package-lock.json"];

const modified = (file) => statSync(file).mtimeMs;

/** Latest change below a path; a directory's own time tells of deleted files. */
function newest(file) {
  if (!statSync(file).isDirectory()) return modified(file);
  return Math.max(modified(file), ...readdirSync(file).map((name) => newest(path.join(file, name))));
}

const dist = path.join(root, "dist");
const outputs = OUTPUTS.map((name) => path.join(dist, name));
const upToDate =
  outputs.every((file) => existsSync(file)) &&
  Math.min(...outputs.map(modified)) > Math.max(...INPUTS.map((name) => newest(path.join(root, name))));

if (!upToDate) {
  rmSync(dist, { recursive: true, force: true });
  process.exitCode = runTool("tsdown", ["--log-level", "warn"]);
}
