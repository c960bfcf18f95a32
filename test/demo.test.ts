import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { root } from "./engine/support.js";

interface Row {
  readonly policy: string;
  readonly budget: number | null;
  readonly right: number;
  readonly asked: number;
  readonly peakBytes: number;
  readonly reservedBytes: number;
  readonly rowsKept: number;
  readonly prefillTokensPerSecond: number;
  readonly decodeTokensPerSecond: number;
  readonly firstTokenMs: number;
}

const directory = mkdtempSync(join(tmpdir(), "longhaul-demo-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

function demo(...args: string[]) {
  const program = join(root, "examples/demo/main.mjs");
  const { status, stdout, stderr } = spawnSync(process.execPath, [program, ...args], { encoding: "utf8" });
  return { status, stdout, stderr };
}

function measured(name: string, ...args: string[]): { rows: Row[]; stdout: string } {
  const file = join(directory, name);
  const { status, stdout, stderr } = demo(...args, "--json", file);
  expect([status, stderr]).toEqual([0, ""]);
  return { rows: JSON.parse(readFileSync(file, "utf8")).results, stdout };
}

function find(rows: readonly Row[], policy: string, budget: number | null = null): Row {
  const row = rows.find((candidate) => candidate.policy === policy && candidate.budget === budget);
  if (row === undefined) throw new Error(`no row of ${policy} at ${budget}`);
  return row;
}

const share = (row: Row) => row.right / row.asked;

describe("demo", () => {
  let rows: readonly Row[];
  let longer: readonly Row[];
  let stdout: string;

  beforeAll(() => {
    const common = [
      "--dialogues",
      "3",
      "--questions",
      "24",
      "--policies",
      "streaming,snapkv,keydiff,patched-prompt",
    ];
    ({ rows, stdout } = measured("short.json", ...common, "--tokens", "1024", "--budgets", "64,256"));
    ({ rows: longer } = measured("long.json", ...common, "--tokens", "2048", "--budgets", "64"));
  });

  it("asks every question of every row, full KV first", () => {
    expect(rows).toHaveLength(1 + 4 * 2);
    expect(rows[0]?.policy).toBe("full");
    for (const row of rows) expect(row.asked).toBe(72);
  });

  it("answers nearly everything with full KV, and with KeyDiff at a quarter of it", () => {
    expect(share(find(rows, "full"))).toBeGreaterThanOrEqual(0.95);
    expect(share(find(rows, "keydiff", 256))).toBeGreaterThanOrEqual(0.9);
  });

  it("loses what the policy throws away", () => {
    expect(share(find(rows, "streaming", 64))).toBeLessThan(0.3);
    expect(share(find(rows, "snapkv", 64))).toBeLessThan(0.5);
    expect(share(find(rows, "patched-prompt", 64))).toBeGreaterThan(share(find(rows, "streaming", 64)));
    expect(find(rows, "streaming", 64).rowsKept).toBeCloseTo(64 / 1020, 2);
  });

  it("spends no more on a longer history, unless everything is kept", () => {
    for (const policy of ["streaming", "snapkv", "keydiff", "patched-prompt"]) {
      const bounded = find(rows, policy, 64);
      expect(bounded.peakBytes).toBe(find(longer, policy, 64).peakBytes);
      expect(bounded.peakBytes).toBeLessThan(find(rows, "full").peakBytes / 4);
      expect(bounded.peakBytes).toBeLessThanOrEqual(bounded.reservedBytes);
    }
    expect(find(longer, "full").peakBytes).toBeGreaterThan(1.9 * find(rows, "full").peakBytes);
  });

  it("measures, and prints what it measured", () => {
    for (const row of rows) {
      expect(row.prefillTokensPerSecond).toBeGreaterThan(0);
      expect(row.decodeTokensPerSecond).toBeGreaterThan(0);
      expect(row.firstTokenMs).toBeGreaterThan(0);
      expect(stdout).toContain(`${row.right}/${row.asked}`);
    }
  });
});

it("runs the other policies too", () => {
  const args = ["--dialogues", "2", "--questions", "16", "--tokens", "512", "--budgets", "64"];
  const { rows, stdout } = measured("others.json", ...args, "--policies", "snapkv-refed,tova,kvzip");
  // Every token of a block is in hand twice.
  expect(find(rows, "kvzip", 64).peakBytes).toBeGreaterThan(find(rows, "tova", 64).peakBytes);
  for (const { budget, rowsKept } of rows) expect(rowsKept).toBeCloseTo(budget === null ? 1 : 64 / 508, 2);
  expect(stdout).toContain("kvzip feeds the tokens of each block once more");
});

it("remembers dialogues in episodes, which costs as many memories", () => {
  const args = ["--dialogues", "2", "--questions", "16", "--tokens", "1024", "--budgets", "128"];
  const { rows, stdout } = measured(
    "episodes.json",
    ...args,
    "--policies",
    "streaming,epicache",
    "--episodes",
    "3",
  );
  const [streaming, epicache] = [find(rows, "streaming", 128), find(rows, "epicache", 128)];
  expect(share(epicache)).toBeGreaterThan(share(streaming) + 0.3);
  expect(epicache.rowsKept).toBeCloseTo(3 * streaming.rowsKept, 2);
  expect(stdout).toContain("epicache keeps 3 such memories");
});

describe("the demo's command line", () => {
  it.each([
    [["--tokens", "many"], "--tokens must be an integer"],
    [["--policies", "best"], '"best"'],
    [["--fast"], "--fast"],
  ])("refuses %j", (args, message) => {
    const { status, stdout, stderr } = demo(...args);
    expect([status, stdout]).toEqual([2, ""]);
    expect(stderr).toContain(message);
  });

  it("fails where the model's positions end", () => {
    const { status, stderr } = demo("--tokens", "9000", "--dialogues", "1");
    expect(status).toBe(1);
    expect(stderr).toContain("ERR_INVALID_ARGUMENT");
  });

  it("has help", () => {
    const { status, stdout } = demo("--help");
    expect(status).toBe(0);
    for (const option of ["--tokens", "--policies", "--budgets", "--questions", "--json"])
      expect(stdout).toContain(option);
  });
});
