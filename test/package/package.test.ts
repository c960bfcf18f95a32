// The packed tarball, installed where no compiler, CMake or Python is on PATH, and built from source where they are.
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { barePath, must, root, run } from "./sandbox.js";

const work = mkdtempSync(path.join(tmpdir(), "longhaul-package-"));
const app = path.join(work, "app");
const installed = path.join(app, "node_modules", "longhaul");
const model = path.join(root, "models", "recall-llama");
const prebuild = path.join("prebuilds", `linux-${process.arch}`, "longhaul.glibc.node");
const library = "liblonghaul_cuda.so";
let bare = "";
let tarball = "";

// Scores a few tokens of the shipped model: the whole way from JavaScript through the addon to the kernels.
const PROBE = `async function probe({ Engine }) {
  const engine = await Engine.load(${JSON.stringify(model)});
  const { logits } = await engine.score([1, 11, 28, 7, 4, 6, 112], { logits: true });
  await engine.dispose();
  return JSON.stringify(Array.from(logits).slice(-8));
}
`;

const PROGRAMS = {
  "esm.mjs": `import * as longhaul from "longhaul";\n${PROBE}console.log(await probe(longhaul));\n`,
  "cjs.cjs": `const longhaul = require("longhaul");\n${PROBE}probe(longhaul).then(console.log);\n`,
  "worker.mjs": `import { parentPort } from "node:worker_threads";
import * as longhaul from "longhaul";
${PROBE}parentPort.postMessage(await probe(longhaul));
`,
  // Loads the addon in workers only, one after the other: the second finds what the first left behind.
  "main.mjs": `import { Worker } from "node:worker_threads";
import { once } from "node:events";
for (let i = 0; i < 2; i++) {
  const worker = new Worker(new URL("./worker.mjs", import.meta.url));
  const ended = once(worker, "exit");
  const [answer] = await once(worker, "message");
  console.log(answer);
  await ended;
}
`,
};

/** Highest version of a symbol version family that the prebuild needs, as [major, minor, patch]. */
function highest(symbols: string, family: string): number[] {
  const versions = [...symbols.matchAll(new RegExp(`\\b${family}_(\\d+(?:\\.\\d+)+)`, "g"))].map((match) =>
    (match[1] ?? "").split(".").map(Number),
  );
  versions.sort((a, b) => (a[0] ?? 0) - (b[0] ?? 0) || (a[1] ?? 0) - (b[1] ?? 0) || (a[2] ?? 0) - (b[2] ?? 0));
  return versions.at(-1) ?? [];
}

beforeAll(async () => {
  bare = barePath(path.join(work, "bin"));
  // npm's prepack script bundles lib/ and builds the prebuild.
  await must("npm", ["pack", "--pack-destination", work], root);
  tarball = path.join(work, readdirSync(work).find((name) => name.endsWith(".tgz")) ?? "no tarball");
  mkdirSync(app);
  writeFileSync(path.join(app, "package.json"), '{ "name": "app", "private": true }\n');
  for (const [name, text] of Object.entries(PROGRAMS)) writeFileSync(path.join(app, name), text);
  await must("npm", ["install", "--omit=dev", "--no-audit", "--no-fund", tarball], app, bare);
});

afterAll(() => rmSync(work, { recursive: true, force: true }));

describe("the tarball", () => {
  it("holds the bundles, the prebuild and what a build from source needs, and nothing else", () => {
    const files = readdirSync(installed, { recursive: true, encoding: "utf8" });
    for (const file of [
      "dist/index.mjs",
      "dist/index.cjs",
      "dist/cli.mjs",
      "dist/solver-worker.mjs",
      "dist/index.d.mts",
      "LICENSE",
      prebuild,
    ]) {
      expect(files).toContain(file);
    }
    for (const file of [
      "CMakeLists.txt",
      "binding.gyp",
      "binding.cjs",
      "scripts/cmake-build.cjs",
      "native/core/ops.h",
    ]) {
      expect(files).toContain(file);
    }
    expect(files.filter((file) => /^(test|models|bench|lib|examples|node_modules)\b/.test(file))).toEqual([]);
    expect(files.filter((file) => file.endsWith(".node"))).toEqual([prebuild]);
  });

  it("brings the CUDA library, when one was built, and finds it without a compiler", async () => {
    if (!existsSync(path.join(root, "build-cuda", "native", "cuda", library))) {
      console.log("no CUDA library was built here (npm run build:cuda)");
      return;
    }
    expect(existsSync(path.join(installed, path.dirname(prebuild), library))).toBe(true);
    const program = 'import { info } from "longhaul"; console.log(JSON.stringify(info().cuda));';
    const found = JSON.parse(await must("node", ["--input-type=module", "-e", program], app, bare));
    if (existsSync("/proc/driver/nvidia/version")) expect(found).toEqual({ available: true });
    else expect(found.reason).toMatch(/^CUDA cannot be used: cudaErrorInsufficientDriver /);
  });

  it("runs no install script, neither its own nor a dependency's", () => {
    const lock = JSON.parse(readFileSync(path.join(app, "node_modules", ".package-lock.json"), "utf8"));
    const packages = Object.entries<{ hasInstallScript?: boolean }>(lock.packages);
    expect(packages.length).toBeGreaterThan(1);
    expect(packages.filter(([, entry]) => entry.hasInstallScript).map(([name]) => name)).toEqual([]);
  });

  it("needs no newer glibc and libstdc++ than Ubuntu 22.04 and Debian 12 have", async () => {
    const directory = path.join(installed, path.dirname(prebuild));
    for (const file of readdirSync(directory)) {
      const symbols = await must("objdump", ["-T", path.join(directory, file)], work);
      const [glibcMajor, glibcMinor] = highest(symbols, "GLIBC");
      expect(glibcMajor).toBe(2);
      expect(glibcMinor).toBeLessThanOrEqual(34);
      const [, , glibcxxPatch = 0] = highest(symbols, "GLIBCXX");
      expect(glibcxxPatch).toBeLessThanOrEqual(30);
    }
  });

  it("passes publint", async () => {
    const output = await run(path.join(root, "node_modules", ".bin", "publint"), ["--strict", tarball], work);
    expect(output, output.stdout).toMatchObject({ code: 0 });
  });

  it("passes arethetypeswrong", async () => {
    const output = await run(path.join(root, "node_modules", ".bin", "attw"), ["--no-emoji", tarball], work);
    expect(output, output.stdout).toMatchObject({ code: 0 });
  });
});

describe("where there is no compiler", () => {
  it("really has none on PATH", async () => {
    for (const tool of ["cc", "g++", "cmake", "make", "python3"]) {
      expect((await run("sh", ["-c", `command -v ${tool}`], app, bare)).code).not.toBe(0);
    }
  });

  it("gives the same numbers as ES module, CommonJS and in workers only", async () => {
    const esm = (await must("node", ["esm.mjs"], app, bare)).trim();
    const values = JSON.parse(esm);
    expect(values).toHaveLength(8);
    for (const value of values) expect(value).toBeTypeOf("number");
    expect((await must("node", ["cjs.cjs"], app, bare)).trim()).toBe(esm);
    expect((await must("node", ["main.mjs"], app, bare)).trim().split("\n")).toEqual([esm, esm]);
  });

  it("runs the command", async () => {
    expect((await must("npx", ["--no-install", "longhaul", "info"], app, bare)).length).toBeGreaterThan(0);
    expect(JSON.parse(await must("npx", ["--no-install", "longhaul", "info", "--json"], app, bare))).toBeTypeOf(
      "object",
    );
  });
});

describe("without a fitting prebuild", () => {
  it("builds from source on demand", async () => {
    const built = (await must("node", ["esm.mjs"], app, bare)).trim();
    rmSync(path.join(installed, "prebuilds"), { recursive: true });
    expect((await run("node", ["esm.mjs"], app, bare)).code).not.toBe(0);
    const tools = ["cmake-js", "node-addon-api"].map((name) => path.join(root, "node_modules", name));
    const versions = tools.map((dir) => JSON.parse(readFileSync(path.join(dir, "package.json"), "utf8")));
    const specs = versions.map(({ name, version }: { name: string; version: string }) => `${name}@${version}`);
    await must("npm", ["install", "--no-audit", "--no-fund", ...specs], app);
    await must("npx", ["node-gyp-build"], installed);
    expect((await must("node", ["esm.mjs"], app, bare)).trim()).toBe(built);
  });
});
