// Two steps shared by every CMake build of this package: configure when the settings changed, build quietly.
const { spawn } = require("node:child_process");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");

// What Ninja and Make say when there is nothing to do.
const NOTHING_DONE = /no work to do|Built target|Re-checking globbed|Consolidate compiler generated|^\s*$/;

/** Runs a command and resolves with its exit code; lines that match `drop` are not shown. */
function run(command, args, { drop, ...options } = {}) {
  return new Promise((resolve, reject) => {
    const stdio = ["ignore", drop ? "pipe" : "inherit", "inherit"];
    const child = spawn(command, args, { ...options, stdio });
    child.on("error", reject);
    child.on("close", (code, signal) => resolve(signal ? 1 : code));
    if (!drop) return;
    let rest = "";
    child.stdout.on("data", (data) => {
      const lines = (rest + data).split("\n");
      rest = lines.pop();
      for (const line of lines) if (!drop.test(line)) process.stdout.write(`${line}\n`);
    });
  });
}

/**
 * Runs `configure` (a command line) unless the build directory was configured by the very same one. A changed
 * command line, a moved checkout or an interrupted configuration starts from an empty directory.
 */
async function configureOnce(buildDir, configure, env = process.env) {
  const stampFile = path.join(buildDir, ".configured-by");
  const stamp = JSON.stringify([buildDir, ...configure]);
  if (fs.existsSync(stampFile) && fs.readFileSync(stampFile, "utf8") === stamp) return;
  fs.rmSync(buildDir, { recursive: true, force: true });
  fs.mkdirSync(buildDir, { recursive: true });
  const code = await run(configure[0], configure.slice(1), { env });
  if (code !== 0) throw new Error(`CMake could not configure ${path.basename(buildDir)} (exit code ${code})`);
  fs.writeFileSync(stampFile, stamp);
}

/** `cmake --build` of the given targets (all without); prints nothing when everything is up to date. */
async function build(buildDir, targets = [], env = process.env) {
  const args = ["--build", buildDir];
  if (targets.length > 0) args.push("--target", ...targets);
  if (!env.CMAKE_BUILD_PARALLEL_LEVEL) args.push("--parallel", String(os.availableParallelism()));
  const code = await run("cmake", args, { env, drop: NOTHING_DONE });
  if (code !== 0) throw new Error(`the build in ${path.basename(buildDir)} failed (exit code ${code})`);
}

module.exports = { run, configureOnce, build };
