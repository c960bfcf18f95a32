// Judges the judge: `npm run fixtures` must fail where a golden value is not the engine's.
import { spawnSync } from "node:child_process";
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";

const root = join(import.meta.dirname, "..");
const epicache = "epicache/llama/tiny_n_lt_block";
const model = "models/qwen2";

let tree: string;

beforeAll(() => {
  const built = spawnSync(process.execPath, ["scripts/build-tests.mjs", "--target", "golden"], { cwd: root });
  expect(built.status, String(built.stderr)).toBe(0);
}, 900_000);

beforeEach(() => {
  tree = mkdtempSync(join(tmpdir(), "longhaul-fixtures-"));
  writeFileSync(join(tree, "index.json"), "{}");
});

afterEach(() => rmSync(tree, { recursive: true, force: true }));

/** Copies a case that ships with the repository into the tree. */
function copy(name: string): string {
  const directory = join(tree, name);
  cpSync(join(root, "test/fixtures", name), directory, { recursive: true });
  return directory;
}

/** The model of the epicache cases. The link keeps it from being a case of the tree itself. */
function linkModel(): void {
  mkdirSync(join(tree, "models"), { recursive: true });
  symlinkSync(join(root, "test/fixtures/models/llama"), join(tree, "models/llama"));
}

// biome-ignore lint/suspicious/noExplicitAny: the case is ours.
function edit(directory: string, change: (json: any) => void): void {
  const path = join(directory, "case.json");
  const json = JSON.parse(readFileSync(path, "utf8"));
  change(json);
  writeFileSync(path, JSON.stringify(json));
}

/** Adds `amount` to the last element of an F32 or I32 tensor. */
function disturb(path: string, tensor: string, amount: number): void {
  const bytes = readFileSync(path);
  const begin = 8 + Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString("utf8", 8, begin));
  const at = begin + header[tensor].data_offsets[1] - 4;
  if (header[tensor].dtype === "I32") bytes.writeInt32LE(bytes.readInt32LE(at) + amount, at);
  else bytes.writeFloatLE(bytes.readFloatLE(at) + amount, at);
  unlinkSync(path);
  writeFileSync(path, bytes);
}

function run(...args: string[]) {
  const result = spawnSync(process.execPath, ["scripts/run-fixtures.mjs", "--device", "reference", ...args], {
    cwd: root,
    encoding: "utf8",
  });
  const lines = result.stdout.trimEnd().split("\n");
  const failed = lines.filter((line) => line.includes(" FAIL"));
  return { code: result.status, lines, failed, summary: lines.at(-1), stderr: result.stderr };
}

describe("npm run fixtures", () => {
  it("passes a case as it is, through the golden program and the addon", () => {
    linkModel();
    copy(epicache);
    const { code, lines, failed } = run(tree, "--kind", "epicache");
    expect({ code, failed }).toEqual({ code: 0, failed: [] });
    for (const quantity of ["scores", "pos_kept", "question_logits", "greedy_ids", "addon.greedy_ids"]) {
      expect(lines).toContainEqual(expect.stringMatching(`^${epicache} +${quantity} +error .* pass$`));
    }
  });

  it("fails a folder without cases", () => {
    expect(run(tree)).toMatchObject({ code: 2, summary: "0 passed, 0 failed, 0 skipped" });
  });

  it("fails the one quantity whose stored number was changed, by the case's own limit", () => {
    linkModel();
    const directory = copy(epicache);
    disturb(join(directory, "data.safetensors"), "question_logits", 0.01);
    const { code, failed, summary } = run(directory);
    expect(code).toBe(1);
    expect(failed).toEqual([expect.stringMatching(`^${epicache} +question_logits +error 0\\.01 .*FAIL`)]);
    expect(summary).toMatch(/^\d+ passed, 1 failed, 0 skipped$/);

    edit(directory, (json) => {
      json.limits.question_logits = { abs: 0.02 };
    });
    expect(run(directory).code).toBe(0);
  });

  it("lets greedy ids differ only where a bf16 case's margin allows it", () => {
    const directory = copy("models/llama_bf16");
    disturb(join(directory, "golden_short.safetensors"), "greedy_ids", 1);
    const runWithMargin = (abs: number) => {
      edit(directory, (json) => {
        json.limits_bf16.greedy_ids.only_where_margin_above = { abs };
      });
      const { code, failed } = run(directory, "--kind", "model");
      return { code, quantities: failed.map((line) => line.split(/ +/)[1]) };
    };
    expect(runWithMargin(1e-6)).toEqual({ code: 1, quantities: ["short.greedy_ids"] });
    expect(runWithMargin(1e6)).toEqual({ code: 0, quantities: [] });
  });

  it("fails a limit of a form that it does not know", () => {
    linkModel();
    const directory = copy(epicache);
    edit(directory, (json) => {
      json.limits.scores = { within_a_factor: 2 };
    });
    const { code, failed } = run(directory);
    expect(code).toBe(1);
    expect(failed[0]).toContain('"within_a_factor"');
  });

  it("fails a wrong token and a wrong letter of the chat text", () => {
    const directory = copy(model);
    edit(directory, (json) => {
      json.chat.text = `${json.chat.text}!`;
      json.golden.short.text = `${json.golden.short.text}!`;
    });
    const { code, failed } = run(directory);
    expect(code).toBe(1);
    const quantities = failed.map((line) => line.split(/ +/)[1]);
    expect(quantities).toEqual(["short.input_ids", "chat.text", "chat.ids"]);
  });

  it("judges plans by exact optima", () => {
    const directory = copy("parallel/planner");
    for (const file of ["large.json", "bucketing.json", "blaster.json"])
      writeFileSync(join(directory, file), "[]");
    const path = join(directory, "instances.json");
    const instances = JSON.parse(readFileSync(path, "utf8")).slice(0, 2);
    // Better than any plan is.
    instances[1].optimal_makespan_ms *= 0.9;
    writeFileSync(path, JSON.stringify(instances));
    const { code, failed } = run(tree);
    expect(code).toBe(1);
    expect(failed.map((line) => line.split(/ +/)[1])).toEqual(["instance_1.heuristic", "instance_1.optimum"]);
  });

  it("says what it does not understand: exit code 2 when asked for, skipped when met", () => {
    linkModel();
    const directory = copy(epicache);
    edit(directory, (json) => {
      json.kind = "telepathy";
    });
    const skipped = `${epicache} +skipped: kind telepathy is not understood by this build`;
    for (const args of [[directory], [tree, "--kind", "telepathy"]]) {
      const { code, lines } = run(...args);
      expect(code).toBe(2);
      expect(lines).toContainEqual(expect.stringMatching(skipped));
    }
    const met = run(dirname(directory));
    expect(met.code).toBe(0);
    expect(met.lines).toContainEqual(expect.stringMatching(skipped));
    expect(met.summary).toBe("0 passed, 0 failed, 1 skipped");
  });

  it("fails broken cases and goes on", () => {
    linkModel();
    copy(epicache);
    for (const [name, text] of Object.entries({ broken: '{"kind":', empty: '{"kind":"sampling"}' })) {
      mkdirSync(join(tree, name));
      writeFileSync(join(tree, name, "case.json"), text);
    }
    const { code, failed, lines } = run(tree, "--json");
    expect(code).toBe(1);
    expect(failed).toEqual([]);
    const parsed = lines.map((line) => JSON.parse(line));
    const cases = new Set(parsed.filter((line) => line.pass === false).map((line) => line.case));
    expect(cases).toEqual(new Set(["broken", "empty"]));
    expect(parsed).toContainEqual(
      expect.objectContaining({ case: epicache, kind: "epicache", quantity: "pos_kept", error: 0, pass: true }),
    );
    expect(parsed.at(-1).failed).toBeGreaterThanOrEqual(2);
  });

  it("refuses a command line that it does not understand", () => {
    expect(run().code).toBe(2);
    expect(run("--frobnicate", tree).code).toBe(2);
    expect(run(tree, "--device", "abacus").code).toBe(2);
    expect(run("--help")).toMatchObject({ code: 0 });
  });
});
