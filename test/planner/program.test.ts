import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { checkPlan, formatCosts, publishedCosts, type SequenceParallelPlan } from "../../lib/index.js";
import { root } from "../engine/support.js";
import { costsWith, longTailed } from "./support.js";

const directory = mkdtempSync(join(tmpdir(), "longhaul-plan-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const save = (name: string, text: string) => {
  const file = join(directory, name);
  writeFileSync(file, text);
  return file;
};
const lengths = longTailed(17, 200);
const file = save("lengths.txt", `${lengths.join("\n")}\n`);

/** Runs the program as it is installed; `interruptAfter` presses Ctrl-C when stderr says so much. */
function plan(args: readonly string[], interruptAfter?: RegExp) {
  return new Promise<{ code: number | null; stdout: string; stderr: string }>((resolve, reject) => {
    const child = spawn(process.execPath, [join(root, "dist/cli.mjs"), "plan", ...args]);
    let stdout = "";
    let stderr = "";
    let interrupted = false;
    child.stdout.setEncoding("utf8").on("data", (text) => {
      stdout += text;
    });
    child.stderr.setEncoding("utf8").on("data", (text) => {
      stderr += text;
      if (!interrupted && interruptAfter?.test(stderr)) interrupted = child.kill("SIGINT");
    });
    child.on("error", reject);
    child.on("close", (code) => resolve({ code, stdout, stderr }));
  });
}

describe("longhaul plan", () => {
  it("draws the plan and says what is proven and gained", async () => {
    const page = join(directory, "plan.html");
    const { code, stdout, stderr } = await plan([file, "--devices", "64", "--html", page]);
    expect([code, stderr]).toEqual([
      0,
      expect.stringMatching(/planned 200 sequences in .*\nwritten to .*plan\.html\n/),
    ]);
    expect(stdout).toMatch(/^micro-batch 1 of \d+: \d+ tokens, from 0 ms to \d+ ms\n/);
    expect(stdout).toMatch(/Proven: at most [\d.]+ % slower than the best grouping of these micro-batches/);
    expect(stdout).toMatch(/[\d.]+ times as fast as the best single degree, \d+,/);
    expect(stdout).not.toContain("\u001b");
    expect(
      Math.max(
        ...stdout
          .split("\n")
          .filter((line) => line.startsWith("  "))
          .map((line) => line.length),
      ),
    ).toBeLessThanOrEqual(100);
    expect(readFileSync(page, "utf8")).toContain("<svg");
  });

  it("--json is a plan that the checker accepts, the same on every run but for the times it took", async () => {
    const costs = costsWith(7000);
    const costsFile = save("costs.json", formatCosts(costs));
    const documents = await Promise.all(
      [1, 2].map(async () =>
        JSON.parse((await plan([file, "--devices", "32", "--costs", costsFile, "--json"])).stdout),
      ),
    );
    const [first, second] = documents;
    expect(first.gap).toBeGreaterThanOrEqual(0);
    expect(first.planMs).toBeGreaterThan(0);
    expect(first.certificateMs).toBeGreaterThan(0);
    expect(first.bestStatic.gain).toBeCloseTo(first.bestStatic.ms / first.ms, 9);
    expect(checkPlan(lengths, first as SequenceParallelPlan, { devices: 32, costs })).toEqual([]);
    expect(
      checkPlan(lengths, first as SequenceParallelPlan, {
        devices: 32,
        costs: publishedCosts("gpt-13b", { devices: 32 }),
      }),
    ).not.toEqual([]);
    expect({ ...first, planMs: 0, certificateMs: 0 }).toEqual({ ...second, planMs: 0, certificateMs: 0 });
  });

  it("takes FlexSP's own program, polish and degrees", async () => {
    const few = save(
      "few.jsonl",
      [9000, 5200, 4100, 800, 300, 200].map((tokens) => JSON.stringify({ tokens })).join("\n"),
    );
    const costsFile = save("few-costs.json", formatCosts(costsWith(6449)));
    const run = async (...args: string[]) =>
      JSON.parse((await plan([few, "--devices", "4", "--costs", costsFile, "--json", ...args])).stdout);
    const [flexsp, polished, single] = await Promise.all([
      run("--method", "flexsp", "--seconds", "20", "--no-certificate"),
      run("--polish"),
      run("--min-degree", "4"),
    ]);
    expect(flexsp.gap).toBeNull();
    expect(flexsp.ms / polished.ms).toBeCloseTo(1, 6);
    expect(single.microBatches[0].groups).toHaveLength(1);
  });

  it("Ctrl-C ends it in the middle of a program", async () => {
    const args = [file, "--devices", "64", "--method", "flexsp", "--seconds", "100"];
    const { code, stdout, stderr } = await plan(args, /at most 100 s/);
    expect([code, stdout]).toEqual([130, ""]);
    expect(stderr).toMatch(/\nlonghaul: interrupted\n$/);
  });

  it.each<[string[], number, RegExp]>([
    [[file], 2, /--devices is missing/],
    [[file, "--devices", "0"], 2, /--devices must be an integer of at least 1/],
    [[file, "--devices", "8", "--method", "magic"], 2, /--method must be one of search, flexsp/],
    [[file, "--devices", "8", "--seconds", "3"], 2, /--seconds is for --polish and --method flexsp/],
    [[file, "--devices", "8", "--attention", "ring,flash"], 2, /--attention must be a list of/],
    [["gone.txt", "--devices", "8"], 1, /ERR_INVALID_ARGUMENT: gone\.txt: cannot be read/],
    [
      [file, "--devices", "8", "--costs", "gone.json"],
      1,
      /gone\.json: cannot be read .*; --costs is a file, or one of gpt-7b/,
    ],
    [
      [save("bad.txt", "12\nfoo\n"), "--devices", "8"],
      1,
      /ERR_CORRUPT_FILE: .*bad\.txt, line 2: foo is neither/,
    ],
    [[file, "--devices", "2"], 1, /ERR_INVALID_ARGUMENT: gpt-7b has model states of/],
    [
      [file, "--devices", "64", "--no-certificate", "--html", "/nowhere/plan.html"],
      1,
      /cannot write \/nowhere\/plan\.html/,
    ],
  ])("%j is refused", async (args, code, message) => {
    const outcome = await plan(args);
    expect([outcome.code, outcome.stdout]).toEqual([code, ""]);
    expect(outcome.stderr).toMatch(message);
  });
});
