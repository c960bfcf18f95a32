// Builds the libFuzzer targets with clang and runs each for LONGHAUL_FUZZ_SECONDS (30) from its committed corpus,
// test/native/fuzz/corpus/TARGET; findings are kept in build-fuzz/findings/. A target counts as one test.
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import path from "node:path";
import { buildDirectory, buildNativeTests } from "./native-tests.mjs";
import { close, findProgram, root } from "./shared.mjs";

const seconds = Number(process.env.LONGHAUL_FUZZ_SECONDS ?? 30);
const sources = path.join(root, "test", "native", "fuzz");

/** Runs one target; resolves with whether it found nothing. Its output is shown only when it did. */
function fuzz(target) {
  // libFuzzer writes new inputs to its first corpus: not the committed one.
  const grown = mkdtempSync(path.join(tmpdir(), `${target}-`));
  const findings = path.join(buildDirectory("fuzz"), "findings", target);
  mkdirSync(findings, { recursive: true });
  const corpora = [grown, path.join(sources, "corpus", target)].filter((dir) => existsSync(dir));
  const limits = [`-max_total_time=${seconds}`, "-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1"];
  const program = path.join(buildDirectory("fuzz"), "test", "native", target);
  return new Promise((resolve) => {
    const child = spawn(program, [...limits, `-artifact_prefix=${findings}/`, ...corpora], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    let output = "";
    child.stderr.on("data", (data) => {
      output = (output + data).slice(-20_000);
    });
    const finish = (ok, detail) => {
      rmSync(grown, { recursive: true, force: true });
      if (!ok) console.error(output);
      console.log(`${ok ? "ok  " : "FAIL"} ${target}: ${detail}`);
      resolve(ok);
    };
    child.on("error", (error) => finish(false, error.message));
    child.on("close", (code) => {
      const runs = /number_of_executed_units: (\d+)/.exec(output)?.[1] ?? "0";
      finish(code === 0 && runs !== "0", code === 0 ? `${runs} inputs in ${seconds} s` : `exit code ${code}`);
    });
  });
}

async function main() {
  const targets = (existsSync(sources) ? readdirSync(sources) : [])
    .filter((name) => name.endsWith("_fuzz.cc"))
    .map((name) => name.slice(0, -".cc".length));
  if (!findProgram("clang++")) {
    throw new Error(
      `clang++ not found (Debian: apt-get install clang): fuzz targets ${targets.join(", ")} did not run`,
    );
  }
  await buildNativeTests("fuzz", targets);
  const total = { passed: 0, failed: 0 };
  const work = async () => {
    for (let target = targets.shift(); target !== undefined; target = targets.shift()) {
      total[(await fuzz(target)) ? "passed" : "failed"]++;
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, work));
  return total;
}

close(
  await main().catch((error) => {
    console.error(error.message);
    return { passed: 0, failed: 1 };
  }),
);
