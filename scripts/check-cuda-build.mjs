// Builds every CUDA kernel for every GPU of a release, puts the library beside the addon, and fails when one spills registers or keeps an array in local
// memory, which costs more than any other mistake that a test cannot see. Prints each kernel's registers.
// Without nvcc there is nothing to build; then it says so.
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { buildDir, buildLibrary, findNvcc, install } from "./cuda.cjs";
import { close, root } from "./shared.mjs";

const ARCHITECTURES = ["sm_80", "sm_90a", "sm_100", "sm_120"];
const HOPPER = ["sm_90a"];

/** What ptxas said of the functions in one log: [{ name, architecture, registers, frame, spills }]. */
function parseLog(text) {
  const functions = [];
  let architecture;
  for (const line of text.split("\n")) {
    const entry = /Compiling entry function '.+' for '(\w+)'/.exec(line);
    const properties = /Function properties for (\S+)/.exec(line);
    const memory = /(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/.exec(line);
    const registers = /Used (\d+) registers/.exec(line);
    if (entry) architecture = entry[1];
    if (properties) functions.push({ name: properties[1], architecture, registers: 0, frame: 0, spills: 0 });
    const last = functions.at(-1);
    if (memory)
      Object.assign(last, { frame: Number(memory[1]), spills: Number(memory[2]) + Number(memory[3]) });
    if (registers) last.registers = Number(registers[1]);
  }
  return functions;
}

/** Mangled names as C++ spells them, without the arguments' types. */
function readable(names) {
  const plain = execFileSync("c++filt", ["-p"], { input: names.join("\n"), encoding: "utf8" })
    .trimEnd()
    .split("\n");
  return new Map(
    names.map((name, i) => [
      name,
      plain[i].replaceAll(/longhaul::cuda::|\(anonymous namespace\)::|^void /g, ""),
    ]),
  );
}

function check() {
  const sources = readdirSync(path.join(root, "native", "cuda")).filter((name) => name.endsWith(".cu"));
  const problems = [];
  const rows = new Map();
  for (const source of sources) {
    const sm90 = source.endsWith("_sm90.cu");
    const part = sm90 ? "longhaul_cuda_sm90.dir" : "longhaul_cuda_kernels.dir";
    const log = path.join(buildDir, "native", "cuda", "CMakeFiles", part, `${source}.o.ptxas`);
    const functions = parseLog(readFileSync(log, "utf8"));
    const seen = new Set(functions.map(({ architecture }) => architecture));
    for (const wanted of sm90 ? HOPPER : ARCHITECTURES) {
      // A source without a kernel has nothing to compile.
      if (functions.length > 0 && !seen.has(wanted)) problems.push(`${source}: not built for ${wanted}`);
    }
    for (const { name, architecture, registers, frame, spills } of functions) {
      const key = `${source} ${name}`;
      if (!rows.has(key)) rows.set(key, { source, name, registers: {} });
      rows.get(key).registers[architecture] = registers;
      if (frame > 0 || spills > 0) {
        problems.push(
          `${source}: ${name} for ${architecture}: ${frame} bytes stack frame, ${spills} bytes spilled`,
        );
      }
    }
  }

  const names = readable([...rows.values()].map(({ name }) => name));
  console.log(`${ARCHITECTURES.map((name) => name.padStart(7)).join("")}  registers of`);
  for (const { source, name, registers } of rows.values()) {
    const numbers = ARCHITECTURES.map((architecture) => String(registers[architecture] ?? "-").padStart(7));
    console.log(`${numbers.join("")}  ${source}: ${names.get(name)}`);
  }
  for (const problem of problems) {
    console.error(problem.replaceAll(/\b_Z\w+/g, (name) => names.get(name) ?? name));
  }
  close({ passed: rows.size - Math.min(problems.length, rows.size), failed: problems.length });
}

const nvcc = findNvcc();
if (nvcc === undefined) {
  console.log("no nvcc on PATH or in /usr/local/cuda/bin: the CUDA kernels are not compiled here");
} else {
  try {
    await buildLibrary();
    install(path.join(root, "build", "Release"));
    check();
  } catch (error) {
    console.error(error.message);
    process.exitCode = 1;
  }
}
