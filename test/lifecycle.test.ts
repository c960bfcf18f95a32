import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { recall, root } from "./engine/support.js";

// How processes and threads end. Each program runs in a process of its own, on the bundled package.
const work = mkdtempSync(join(tmpdir(), "longhaul-lifecycle-"));
afterAll(() => rmSync(work, { recursive: true }));

const prelude = `
import { Engine, kernels } from ${JSON.stringify(pathToFileURL(join(root, "dist/index.mjs")).href)};
import { Worker, isMainThread, parentPort } from "node:worker_threads";
const load = () => Engine.load(${JSON.stringify(recall)}, { kvBytes: "32MiB" });
const long = Array(6000).fill(4);
const facts = "user : rex color is red . user : rex color ? assistant :";
const answer = async (engine) => (await engine.generate(facts).result()).text;
`;

interface Ending {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

let programs = 0;

function runProgram(body: string): Promise<Ending> {
  const file = join(work, `program${programs++}.mjs`);
  writeFileSync(file, prelude + body);
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [file], { stdio: ["ignore", "pipe", "pipe"] });
    let stdout = "";
    let stderr = "";
    child.stdout.on("data", (data) => {
      stdout += data;
    });
    child.stderr.on("data", (data) => {
      stderr += data;
    });
    child.on("error", reject);
    child.on("close", (code, signal) => resolve({ code, signal, stdout, stderr }));
  });
}

const quiet = (stdout: string, code = 0): Ending => ({ code, signal: null, stdout, stderr: "" });

describe("a process", () => {
  it("ends by itself with an engine that nobody disposed of", async () => {
    const ending = await runProgram(`const engine = await load(); console.log(await answer(engine));`);
    expect(ending).toEqual(quiet(" rex color is red\n"));
  });

  it("stays alive while a request is pending, and no longer", async () => {
    const ending = await runProgram(`
      const engine = await load();
      engine.score(long).then(({ tokens }) => console.log(tokens.length));`);
    expect(ending).toEqual(quiet("6000\n"));
  });

  it("may exit while a model is loading", async () => {
    expect(await runProgram(`load(); process.exit(3);`)).toEqual(quiet("", 3));
    expect(await runProgram(`load(); setTimeout(() => process.exit(3), 5);`)).toEqual(quiet("", 3));
  });

  it("may exit in the middle of a prefill and of an answer", async () => {
    const ending = await runProgram(`
      const engine = await load();
      const conversation = await engine.conversation();
      engine.score(long);
      conversation.ingest(long, { onProgress: () => process.exit(4) });`);
    expect(ending).toEqual(quiet("", 4));
    const answering = await runProgram(`
      const engine = await load();
      for await (const chunk of engine.generate(facts, { maxTokens: 5000, stopTokens: [] })) process.exit(5);`);
    expect(answering).toEqual(quiet("", 5));
  });

  it("may exit while an engine is disposed of and a kernel runs", async () => {
    const ending = await runProgram(`
      const engine = await load();
      engine.score(long).catch(() => {});
      engine.dispose();
      kernels.swiglu({ gateUp: new Float32Array(1 << 20), ff: 1 << 10 });
      process.exit(6);`);
    expect(ending).toEqual(quiet("", 6));
  });

  it("dies of an uncaught error like any other", async () => {
    const { code, signal, stderr } = await runProgram(`
      const engine = await load();
      engine.score(long);
      setTimeout(() => { throw new Error("my own fault"); }, 5);`);
    expect({ code, signal }).toEqual({ code: 1, signal: null });
    expect(stderr).toContain("Error: my own fault");
    expect(stderr).not.toMatch(/terminate|Abort|assert/i);
  });

  it("runs two engines side by side", async () => {
    const ending = await runProgram(`
      const [one, two] = await Promise.all([load(), load()]);
      console.log(...await Promise.all([answer(one), answer(two), answer(one)]));
      await one.dispose();
      console.log(await answer(two));`);
    expect(ending).toEqual(quiet(" rex color is red  rex color is red  rex color is red\n rex color is red\n"));
  });
});

/** Runs `body` in a worker and `main` beside it. */
const inWorker = (body: string, main = "") => `
if (isMainThread) {
  const worker = new Worker(new URL(import.meta.url));
  worker.on("error", (error) => console.log("error", error.message));
  worker.on("exit", (code) => console.log("worker ended", code));
  ${main}
} else {
  ${body}
}`;

describe("a worker", () => {
  it("may be the only one to load the addon", async () => {
    const ending = await runProgram(
      inWorker(`
        const engine = await load();
        console.log(await answer(engine));
        await engine.dispose();
        console.log((await kernels.gatherRows({ x: Float32Array.of(7), dim: 1, index: [0] }))[0]);`),
    );
    expect(ending).toEqual(quiet(" rex color is red\n7\nworker ended 0\n"));
  });

  it("may end with an engine that nobody disposed of, and with work pending", async () => {
    const idle = await runProgram(inWorker("const engine = await load(); console.log(await answer(engine));"));
    expect(idle).toEqual(quiet(" rex color is red\nworker ended 0\n"));
    const busy = await runProgram(
      inWorker("const engine = await load(); engine.score(long); process.exit(2);"),
    );
    expect(busy).toEqual(quiet("worker ended 2\n"));
  });

  it("may be terminated in the middle of a prefill while the main thread goes on", async () => {
    const ending = await runProgram(
      inWorker(
        `const engine = await load();
         const conversation = await engine.conversation();
         conversation.ingest(long, { onProgress: () => parentPort.postMessage("busy") });`,
        `const engine = await load();
         worker.once("message", async () => {
           await worker.terminate();
           console.log(await answer(engine));
         });`,
      ),
    );
    expect(ending).toEqual(quiet("worker ended 1\n rex color is red\n"));
  });

  it("may come and go many times", async () => {
    const ending = await runProgram(`
      if (isMainThread) {
        for (let i = 0; i < 4; i++) {
          await new Promise((resolve) => new Worker(new URL(import.meta.url)).on("exit", resolve));
        }
        const engine = await load();
        console.log(await answer(engine));
      } else {
        const engine = await load();
        engine.score(long);
        await answer(engine).then(() => process.exit());
      }`);
    expect(ending).toEqual(quiet(" rex color is red\n"));
  });
});
