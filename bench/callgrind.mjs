// Counts the instructions of a small fixed run: node bench/callgrind.mjs. The counts do not depend on how
// busy the machine is, so a change of one percent is a change of the code (or of the compiler).
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { findProgram, root } from "../scripts/shared.mjs";
import { buildNative, nativeProgram } from "./build.mjs";
import { ensureCheckpoint } from "./models/checkpoint.mjs";
import { shapeOf } from "./models/shapes.mjs";

const RESULTS = path.join(root, "bench", "results", "callgrind.json");
const PHASES = ["fixed_prefill", "fixed_decode", "fixed_evict"];

/** Instructions below each phase, inclusive, of one run under valgrind. */
function count(directory, temporary) {
  const profile = path.join(temporary, "profile");
  const program = [nativeProgram("bench_fixed"), directory];
  const env = { ...process.env, LONGHAUL_ISA: "avx2" }; // valgrind knows no AVX-512
  const options = [`--callgrind-out-file=${profile}`, ...PHASES.map((name) => `--toggle-collect=${name}`)];
  execFileSync("valgrind", ["--tool=callgrind", "--quiet", ...options, ...program], { env, stdio: "pipe" });
  const text = execFileSync("callgrind_annotate", ["--inclusive=yes", "--threshold=100", profile], {
    encoding: "utf8",
    maxBuffer: 2 ** 28,
  });
  const total = (pattern) => {
    const line = text.split("\n").find((each) => pattern.test(each));
    return line === undefined ? undefined : Number(/^\s*([\d,]+)/.exec(line)[1].replaceAll(",", ""));
  };
  return Object.fromEntries(PHASES.map((name) => [name, total(new RegExp(`:${name}(\\s|$)`))]));
}

async function main() {
  for (const program of ["valgrind", "callgrind_annotate"]) {
    if (findProgram(program) === undefined) throw new Error(`${program} is not on PATH (Debian: valgrind)`);
  }
  await buildNative(["bench_fixed"]);
  const temporary = fs.mkdtempSync(path.join(os.tmpdir(), "longhaul-callgrind-"));
  try {
    const compiler = execFileSync("c++", ["--version"], { encoding: "utf8" }).split("\n")[0];
    const counts = {};
    for (const dtype of ["f32", "bf16"]) {
      const directory = ensureCheckpoint(shapeOf("stories260K"), dtype, temporary);
      counts[dtype] = count(directory, temporary);
    }
    const known = fs.existsSync(RESULTS) ? JSON.parse(fs.readFileSync(RESULTS, "utf8")) : { counts: {} };
    for (const [dtype, phases] of Object.entries(counts)) {
      for (const [phase, instructions] of Object.entries(phases)) {
        const before = known.counts[dtype]?.[phase];
        const change =
          before === undefined ? "" : ` (${((100 * (instructions - before)) / before).toFixed(2)} %)`;
        console.log(`${dtype} ${phase}: ${instructions.toLocaleString("en-US")} instructions${change}`);
      }
    }
    const workload =
      "stories260K shape, AVX2, one thread: 64 tokens prefilled, 32 decoded, 2 blocks of 64 evicted to 32";
    fs.mkdirSync(path.dirname(RESULTS), { recursive: true });
    fs.writeFileSync(RESULTS, `${JSON.stringify({ workload, compiler, counts }, null, 1)}\n`);
  } finally {
    fs.rmSync(temporary, { recursive: true, force: true });
  }
}

main().catch((error) => {
  console.error(`callgrind: ${error.message}`);
  process.exitCode = 1;
});
