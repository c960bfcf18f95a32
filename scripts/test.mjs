// Runs test suites, building first what they need, and prints `N passed, N failed` over all of them as the last
// line: node scripts/test.mjs [native] [js] [asan] [package]; without arguments native and js.
//   native   C++ suites and golden cases (ctest, Release)      js       everything reachable from JavaScript
//   asan     the same under AddressSanitizer and UBSan         package  the packed tarball (slow)
//   emulator        the CUDA backend on emulated GPUs: ops in three schedules, engine, golden cases, planted bugs
//   emulator-asan   its ops, engine and planted bugs under AddressSanitizer
//   emulator-race   its ops and planted bugs with the race detector of shared memory
import { mkdirSync, readFileSync, rmSync } from "node:fs";
import { availableParallelism } from "node:os";
import path from "node:path";
import { ensureGoogleTest } from "./google-test.mjs";
import { buildDirectory, buildNativeTests, missingFor, testLabel } from "./native-tests.mjs";
import { close, root, run, runTool } from "./shared.mjs";

const results = path.join(root, "build", "test-results");
/** What was left out and why, and what failed: said at the end, where it is seen. */
const notes = [];
const failures = [];

/** Counts of a finished suite; a runner that failed without a failing test counts as one failure. */
function counts(name, passed, failed, code) {
  const broken = failed === 0 && (code !== 0 || passed === 0) ? 1 : 0;
  if (broken)
    failures.push(`${name}: ${passed === 0 ? "no test ran" : `the runner ended with exit code ${code}`}`);
  console.log(`${name}: ${passed} passed, ${failed + broken} failed`);
  return { passed, failed: failed + broken };
}

function readResults(file) {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return "";
  }
}

async function ctest(variant) {
  const missing = missingFor(variant);
  if (missing !== undefined) {
    notes.push(missing);
    return { passed: 0, failed: 0 };
  }
  const note = await ensureGoogleTest(variant);
  if (note) notes.push(note);
  await buildNativeTests(variant);
  const report = path.join(results, `ctest-${variant}.xml`);
  rmSync(report, { force: true });
  const args = ["--test-dir", buildDirectory(variant), "--output-on-failure", "--output-junit", report];
  const label = testLabel(variant);
  if (label !== undefined) args.push("-L", label);
  const code = run("ctest", [...args, "--timeout", "600", "--progress", "-j", String(availableParallelism())], {
    env: { ...process.env, UBSAN_OPTIONS: "print_stacktrace=1" },
  });
  const cases = [...readResults(report).matchAll(/<testcase name="([^"]*)"[^>]*\bstatus="(\w+)"/g)];
  const broken = cases.filter(([, , status]) => status !== "run").map(([, test]) => test);
  failures.push(...broken.map((test) => `ctest (${variant}): ${test}`));
  const passed = cases.length - broken.length;
  return counts(`ctest (${variant})`, passed, cases.length - passed, code);
}

function isaSymbols() {
  const code = run(process.execPath, [
    path.join(root, "scripts", "check-isa-symbols.mjs"),
    buildDirectory("release"),
  ]);
  return { passed: code === 0 ? 1 : 0, failed: code === 0 ? 0 : 1 };
}

function vitest(name, config) {
  const report = path.join(results, `${name}.json`);
  rmSync(report, { force: true });
  const reporters = ["--reporter=default", "--reporter=json", `--outputFile.json=${report}`];
  const code = runTool("vitest", ["run", "--config", config, ...reporters]);
  const result = JSON.parse(readResults(report) || "{}");
  const broken = (result.testResults ?? []).flatMap((file) => {
    const tests = file.assertionResults.filter((test) => test.status === "failed");
    if (tests.length > 0) return tests.map((test) => [file, test.fullName, test.failureMessages]);
    // A file that could not be imported is a failed suite without a test.
    return file.status === "failed" ? [[file, "the file", [file.message]]] : [];
  });
  for (const [file, test, [message = ""]] of broken) {
    const [reason] = message.split("\n");
    failures.push(`${name}: ${path.relative(root, file.name)}: ${test}: ${reason}`);
  }
  return counts(name, result.numPassedTests ?? 0, broken.length, code);
}

/** What JavaScript sees of an emulated GPU, and of its failures. */
async function emulatorFromJavaScript() {
  if (missingFor("emulator") !== undefined) return { passed: 0, failed: 0 };
  await buildNativeTests("emulator", ["longhaul_emulated"]);
  return vitest("emulator-js", "test/emulated/vitest.config.ts");
}

function npmRun(script) {
  if (run("npm", ["run", "--silent", script]) !== 0) throw new Error(`npm run ${script} failed`);
}

const SUITES = {
  native: [() => ctest("release"), isaSymbols],
  js: [
    () => {
      npmRun("build");
      return vitest("vitest", "vitest.config.ts");
    },
  ],
  asan: [() => ctest("asan")],
  emulator: [() => ctest("emulator"), emulatorFromJavaScript],
  "emulator-asan": [() => ctest("emulator-asan")],
  "emulator-race": [() => ctest("emulator-race")],
  package: [() => vitest("package", "test/package/vitest.config.ts")],
};

const wanted = process.argv.length > 2 ? process.argv.slice(2) : ["native", "js"];
const unknown = wanted.filter((name) => !(name in SUITES));
if (unknown.length > 0)
  throw new Error(`unknown suite ${unknown.join(", ")}: one of ${Object.keys(SUITES).join(", ")}`);

mkdirSync(results, { recursive: true });
const total = { passed: 0, failed: 0 };
for (const suite of wanted.flatMap((name) => SUITES[name])) {
  let count;
  try {
    count = await suite();
  } catch (error) {
    console.error(error.message);
    count = { passed: 0, failed: 1 };
  }
  total.passed += count.passed;
  total.failed += count.failed;
}
for (const note of notes) console.log(note);
for (const failure of failures) console.log(`failed: ${failure}`);
close(total);
