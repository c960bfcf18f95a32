// `npm run gpu-check`: everything that only a GPU can show, in one command that downloads nothing. Builds for the GPU of
// this machine, runs the suites and the golden cases on it, compute-sanitizer over the op tests, then the bench, and
// writes bench/results/gpu-<name>-<date>.json. docs/gpu-check.md says what it needs.
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import path from "node:path";
import { runJsonLines } from "../bench/child.mjs";
import { planRuns } from "../bench/engine/plan.mjs";
import { runEngines } from "../bench/engine/run.mjs";
import { describeMachine, slug } from "../bench/machine.mjs";
import { parseOptions } from "../bench/options.mjs";
import { printSummary, progressLine } from "../bench/report/table.mjs";
import { build, configureOnce } from "./cmake.cjs";
import { findNvcc } from "./cuda.cjs";
import { findProgram, root, run } from "./shared.mjs";

const BUILD = path.join(root, "build-gpu");
const ADDON = path.join(root, "build", "Release");
/** What may still be started so late that the whole ends within nine minutes. */
const SECONDS = { sanitizer: 240, bench: 300, engines: 420 };

const started = Date.now();
const elapsed = () => (Date.now() - started) / 1000;

function describeGpu() {
  if (findProgram("nvidia-smi") === undefined) {
    throw new Error("there is no nvidia-smi on PATH: this needs a machine with an NVIDIA GPU and its driver");
  }
  const query = "--query-gpu=name,compute_cap,driver_version,memory.total";
  const line = execFileSync("nvidia-smi", [query, "--format=csv,noheader"], { encoding: "utf8" }).split(
    "\n",
  )[0];
  const [name, capability, driver, memory] = line.split(",").map((field) => field.trim());
  if (!/^\d+\.\d+$/.test(capability ?? "")) throw new Error(`nvidia-smi names no GPU: ${line}`);
  return { name, capability, driver, memory };
}

/** 9.0 has instructions of its own that only code for 90a may use. */
const architectureOf = ({ capability }) => {
  const number = capability.replace(".", "");
  return number === "90" ? "90a-real" : `${number}-real`;
};

async function buildAll(gpu, nvcc) {
  const googleTest = process.env.LONGHAUL_GOOGLETEST;
  const generator = findProgram("ninja") === undefined ? [] : ["-G", "Ninja"];
  await configureOnce(BUILD, [
    "cmake",
    "-S",
    root,
    "-B",
    BUILD,
    ...generator,
    "-DCMAKE_BUILD_TYPE=Release",
    "-DLONGHAUL_TESTS=ON",
    "-DLONGHAUL_BENCH=ON",
    "-DLONGHAUL_ADDON=ON",
    "-DLONGHAUL_CUDA=ON",
    `-DCMAKE_CUDA_COMPILER=${nvcc}`,
    `-DLONGHAUL_CUDA_ARCHITECTURES=${architectureOf(gpu)}`,
    `-DCMAKE_LIBRARY_OUTPUT_DIRECTORY=${ADDON}`,
    ...(googleTest === undefined ? [] : [`-DLONGHAUL_GOOGLETEST=${path.resolve(googleTest)}`]),
  ]);
  await build(BUILD, ["gpu_tests", "longhaul"]);
  return { passed: 1, failed: 0 };
}

const testProgram = (name) => path.join(BUILD, "test", "native", name);

/** Runs a GoogleTest program; what it says of each test is in its own report. */
function googleTests(name, { filter, under = [] } = {}) {
  const report = path.join(BUILD, `${name}.json`);
  const args = [`--gtest_output=json:${report}`, "--gtest_brief=1"];
  if (filter !== undefined) args.push(`--gtest_filter=${filter}`);
  const [program, ...rest] = [...under, testProgram(name), ...args];
  const code = run(program, rest);
  const { tests = 0, failures = 0 } = existsSync(report) ? JSON.parse(readFileSync(report, "utf8")) : {};
  const broken = failures === 0 && (code !== 0 || tests === 0) ? 1 : 0;
  return { passed: tests - failures, failed: failures + broken };
}

/** Errors that compute-sanitizer finds end its program with this code. */
function sanitizer(tool, filter) {
  const command = findProgram("compute-sanitizer") ?? "/usr/local/cuda/bin/compute-sanitizer";
  if (!existsSync(command)) return { passed: 0, failed: 0, note: "there is no compute-sanitizer" };
  return googleTests("ops_gpu_test", { filter, under: [command, "--tool", tool, "--error-exitcode", "3"] });
}

function golden() {
  const program = testProgram("golden");
  const args = ["--device", "cuda", path.join(root, "test", "fixtures")];
  let output;
  try {
    output = execFileSync(program, args, { encoding: "utf8", maxBuffer: 1 << 28 });
  } catch (error) {
    output = `${error.stdout ?? ""}${error.stderr ?? ""}`;
  }
  process.stdout.write(
    output
      .split("\n")
      .filter((line) => !line.startsWith("ok"))
      .join("\n"),
  );
  const counts = /(\d+) passed, (\d+) failed/.exec(output);
  if (counts === null) return { passed: 0, failed: 1 };
  return { passed: Number(counts[1]), failed: Number(counts[2]) };
}

async function benchOps(result) {
  const lists = { ceiling: result.ceilings, op: result.ops, failure: result.failures };
  const program = path.join(BUILD, "bench", "native", "bench_ops");
  const code = await runJsonLines(program, ["--device", "cuda", "--json"], (line) => {
    const { kind, ...rest } = line;
    lists[kind].push(rest);
    console.log(progressLine(line));
  });
  return {
    passed: result.ops.length,
    failed: result.failures.length + (code !== 0 && result.ops.length === 0 ? 1 : 0),
  };
}

async function benchEngine(result) {
  if (!existsSync(path.join(root, "dist", "index.mjs"))) {
    return { passed: 0, failed: 1, note: "dist/ is missing: npm run build:ts, or bring it along" };
  }
  const options = parseOptions(["--device", "cuda", "--repeats", "1"]);
  result.engines = await runEngines(planRuns(options), {
    ...options,
    onRecord: (record) => console.log(progressLine({ kind: "engine", ...record })),
  });
  return { passed: result.engines.length, failed: 0 };
}

async function main() {
  const nvcc = findNvcc();
  if (nvcc === undefined)
    throw new Error("there is no nvcc: this needs the CUDA toolkit 13 to build for the GPU");
  const gpu = describeGpu();
  const result = {
    date: new Date().toISOString(),
    gpu,
    nvcc: /release ([\d.]+)/.exec(execFileSync(nvcc, ["--version"], { encoding: "utf8" }))?.[1],
    machine: describeMachine(),
    parts: [],
    ceilings: [],
    ops: [],
    failures: [],
    engines: [],
    loadAverage: { before: [], after: [] },
  };
  console.log(
    `${gpu.name}, compute capability ${gpu.capability}, driver ${gpu.driver}; ${availableParallelism()} cores\n`,
  );

  const small = "-*Large*:*Long*";
  const parts = [
    ["build", () => buildAll(gpu, nvcc)],
    ["PTX layouts", () => googleTests("ptx_gpu_test")],
    ["ops against reference", () => googleTests("ops_gpu_test")],
    ["golden cases", () => golden()],
    ["memcheck", () => sanitizer("memcheck", small), SECONDS.sanitizer],
    ["racecheck", () => sanitizer("racecheck", small), SECONDS.sanitizer],
    ["bench of ops", () => benchOps(result), SECONDS.bench],
    ["bench of the engine", () => benchEngine(result), SECONDS.engines],
  ];
  for (const [name, work, latest] of parts) {
    console.log(`==== ${name}`);
    const begin = elapsed();
    let outcome;
    if (latest !== undefined && begin > latest) {
      outcome = { passed: 0, failed: 0, note: "left out: no time was left for it" };
    } else {
      try {
        outcome = await work();
      } catch (error) {
        outcome = { passed: 0, failed: 1, note: error.message };
      }
    }
    const seconds = Math.round(elapsed() - begin);
    result.parts.push({ name, ...outcome, seconds });
    const note = outcome.note === undefined ? "" : ` (${outcome.note})`;
    console.log(`==== ${name}: ${outcome.passed} passed, ${outcome.failed} failed in ${seconds} s${note}`);
    // Without programs nothing else can be said.
    if (name === "build" && outcome.failed > 0) break;
  }

  if (result.ops.length > 0) printSummary(result);
  const directory = path.join(root, "bench", "results");
  const file = path.join(directory, `gpu-${slug(gpu.name)}-${result.date.slice(0, 10)}.json`);
  mkdirSync(directory, { recursive: true });
  writeFileSync(file, `${JSON.stringify(result, null, 1)}\n`);
  console.log(`\n${path.relative(process.cwd(), file)}`);
  const sum = (field) => result.parts.reduce((total, part) => total + part[field], 0);
  console.log(`${sum("passed")} passed, ${sum("failed")} failed`);
  if (sum("failed") > 0) process.exitCode = 1;
}

main().catch((error) => {
  console.error(`gpu-check: ${error.message}`);
  process.exitCode = 1;
});
