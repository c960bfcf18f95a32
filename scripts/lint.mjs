// Checks style: Biome for TypeScript and JavaScript, clang-format for C++. --write formats in place.
import { execFileSync } from "node:child_process";
import { findProgram, root, run, runTool } from "./shared.mjs";

const write = process.argv.includes("--write");
let failed = runTool("biome", ["check", ...(write ? ["--write"] : []), "."]) !== 0;

const listed = [
  "ls-files",
  "-z",
  "--cached",
  "--others",
  "--exclude-standard",
  "--",
  "native",
  "src",
  "test/native",
];
const sources = execFileSync("git", listed, { cwd: root, encoding: "utf8" })
  .split("\0")
  .filter((file) => /\.(cc|h|cu|cuh)$/.test(file));

if (!findProgram("clang-format")) {
  console.log("clang-format not found (Debian: apt-get install clang-format): C++ was left out");
} else if (sources.length > 0) {
  const code = run("clang-format", [...(write ? ["-i"] : ["--dry-run", "-Werror"]), ...sources]);
  if (code === 0) console.log(`clang-format: ${sources.length} files`);
  failed ||= code !== 0;
}
process.exitCode = failed ? 1 : 0;
