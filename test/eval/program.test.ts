import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { POLICIES } from "../../lib/index.js";
import { root } from "../engine/support.js";
import { runEval } from "./support.js";

const directory = mkdtempSync(join(tmpdir(), "longhaul-eval-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const SMALL = ["--tokens", "512", "--dialogues", "2", "--questions", "8"];

function evaluated(name: string, ...args: string[]) {
  const file = join(directory, `${name}.json`);
  const { status, stdout, stderr } = runEval(...args, "--json", file);
  expect([status, /eval:/.test(stderr)], stderr).toEqual([0, false]);
  const text = readFileSync(file, "utf8");
  return {
    result: JSON.parse(text),
    text,
    page: readFileSync(join(directory, `${name}.html`), "utf8"),
    stdout,
  };
}

describe("npm run eval", () => {
  it("asks every policy the same questions", () => {
    const answers = join(directory, "answers.jsonl");
    const policies = "streaming,keydiff,snapkv-refed,epicache:episodes=3";
    const { result, text, page, stdout } = evaluated(
      "scores",
      ...SMALL,
      "--policies",
      policies,
      "--budgets",
      "48,96",
      "--answers",
      answers,
    );
    const rows = result.results as Record<string, never>[] &
      {
        name: string;
        budget: number | null;
        scores: { exact: { mean: number; count: number } };
        peakBytes: number;
        forwardedTokens: number;
        tokens: number;
      }[];
    expect(rows.map(({ name, budget }) => `${name} ${budget}`)).toEqual([
      "full null",
      ...["streaming", "keydiff", "snapkv-refed", "epicache episodes=3"].flatMap((name) =>
        [48, 96].map((budget) => `${name} ${budget}`),
      ),
    ]);
    const of = (name: string, budget: number | null) =>
      rows.find((row) => row.name === name && row.budget === budget) as (typeof rows)[number];
    for (const row of rows) expect(row.scores.exact.count).toBe(16);
    expect(of("full", null).scores.exact.mean).toBeGreaterThanOrEqual(0.9);
    expect(of("keydiff", 96).scores.exact.mean).toBeGreaterThan(of("streaming", 96).scores.exact.mean);
    expect(of("keydiff", 48).peakBytes).toBeLessThan(of("full", null).peakBytes);
    // Each history once, and the default of 32 tokens behind each block of 128.
    const full = of("full", null);
    expect(full.forwardedTokens).toBe(full.tokens);
    expect(of("snapkv-refed", 48).forwardedTokens).toBe(full.tokens + 4 * 32);
    expect(of("epicache episodes=3", 48).forwardedTokens).toBeGreaterThan(3 * full.tokens);

    const records = readFileSync(answers, "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(records).toHaveLength(9 * 16);
    const right = records.filter(
      ({ policy, budget, scores }) => policy === "keydiff" && budget === 48 && scores.exact,
    );
    expect(right.length / 16).toBeCloseTo(of("keydiff", 48).scores.exact.mean, 5);

    expect(result.settings).toMatchObject({ seed: 9000, block: 128, tail: 64, dialogues: 2, questions: 8 });
    expect(text).not.toContain(root);
    expect(text).not.toContain(hostname());
    expect(page).toContain(`${(100 * of("keydiff", 48).scores.exact.mean).toFixed(1)} % ±`);
    expect(stdout).toContain("epicache episodes=3");
  });

  it("reads a data file and scores by both definitions", () => {
    const turns = Array.from({ length: 6 }, (_, index) => ({ speaker: "Ada", text: `Boat ${index} is red.` }));
    const sample = {
      sample_id: "made-up",
      conversation: {
        speaker_a: "Ada",
        speaker_b: "Ben",
        session_1_date_time: "1 May 2023",
        session_1: turns,
      },
      qa: [
        { question: "Which boat?", answer: "red", category: 4 },
        { question: "Who sank?", adversarial_answer: "Ben", category: 5 },
      ],
    };
    const file = join(directory, "locomo.json");
    writeFileSync(file, JSON.stringify([sample]));
    const { result } = evaluated(
      "locomo",
      "--data",
      file,
      "--policies",
      "keydiff,patched-prompt,epicache:episodes=2",
      "--budgets",
      "64",
      "--block",
      "128",
    );
    expect(result.data).toMatchObject({ name: "LoCoMo", scorers: ["locomo-f1", "epicache-f1"] });
    expect(result.results).toHaveLength(4);
    for (const { asked, scores } of result.results) {
      expect(asked).toBe(2);
      expect(scores["locomo-f1"].count).toBe(2);
      expect(scores["epicache-f1"].count).toBe(1);
    }
  });

  it("times a conversation over topics", () => {
    const { result, page } = evaluated(
      "turns",
      "--turns",
      "12",
      "--tokens",
      "512",
      "--switches",
      "0.5",
      "--policies",
      "epicache,keydiff",
      "--budgets",
      "64",
    );
    expect(result.series.map(({ name }: { name: string }) => name)).toEqual(["full", "epicache", "keydiff"]);
    for (const { setUpMs, turnMs, tokensSeen } of result.series) {
      expect(setUpMs).toBeGreaterThan(0);
      expect(turnMs).toHaveLength(12);
      // Turns stay.
      expect(tokensSeen).toBeGreaterThan(result.historyTokens + 12 * 4);
    }
    const [full] = result.series;
    expect(full.right).toBeGreaterThanOrEqual(10);
    expect(result.switched).toBeGreaterThan(0);
    expect(page).toContain("12 turns");
  });

  it("ends on Ctrl-C and shows what was finished", async () => {
    const args = [join(root, "eval/main.mjs"), "--tokens", "1024", "--dialogues", "10", "--questions", "20"];
    const child = spawn(process.execPath, [...args, "--json", join(directory, "never.json")]);
    let [stdout, stderr, stopped] = ["", "", false];
    child.stdout.on("data", (chunk) => {
      stdout += chunk;
    });
    child.stderr.on("data", (chunk) => {
      stderr += chunk;
      // The first row is done. A second Ctrl-C would not wait.
      if (!stopped && stderr.includes("\n")) stopped = child.kill("SIGINT");
    });
    const [code] = await once(child, "close");
    expect([code, stderr.includes("eval: interrupted")]).toEqual([130, true]);
    expect(stdout).toContain("full");
    expect(() => readFileSync(join(directory, "never.json"))).toThrow();
  });
});

describe("the command line", () => {
  it.each([
    [["--policies", "best"], `--policies knows ${POLICIES.join(", ")}, not "best"`],
    [["--policies", "epicache:epsodes=3"], '"epsodes" is none of'],
    [["--policies", "keydiff,keydiff"], 'names "keydiff" twice'],
    [["--budgets", "64,many"], "--budgets must be an integer"],
    [["--turns", "3", "--switches", "2"], "--switches must be a number from 0 to 1"],
    [["--switches", "0.5"], "--switches means nothing without --turns"],
    [["--turns", "3", "--questions", "4"], "--questions means nothing with --turns"],
    [["--data", "x.json", "--tokens", "512"], "--tokens means nothing with --data"],
    [["--format", "csv"], "--format must be one of auto, locomo, realtalk, longmemeval"],
    [["--fast"], "--fast"],
  ])("refuses %j", (args, message) => {
    const { status, stdout, stderr } = runEval(...args);
    expect([status, stdout]).toEqual([2, ""]);
    expect(stderr).toContain(message);
  });

  it("says which file is wrong before a model is loaded", () => {
    const { status, stderr } = runEval("--model", "no-such-model", "--data", join(directory, "gone.json"));
    expect(status).toBe(1);
    expect(stderr).toMatch(/^eval: ERR_INVALID_ARGUMENT: .*gone\.json: cannot be read/);
  });

  it("names the dialogue that does not fit", () => {
    const args = ["--tokens", "9000", "--dialogues", "1", "--json", join(directory, "never.json")];
    const { status, stderr } = runEval(...args);
    expect(status).toBe(1);
    expect(stderr).toContain("dialogue seed 9000: ");
  });

  it("has help that names every option", () => {
    const { status, stdout } = runEval("--help");
    expect(status).toBe(0);
    for (const option of ["model", "data", "format", "policies", "budgets", "dialogues", "questions", "tokens"])
      expect(stdout).toContain(`--${option}`);
    for (const option of ["seed", "turns", "switches", "json", "answers", "help"])
      expect(stdout).toContain(`--${option}`);
  });
});
