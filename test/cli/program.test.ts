import { spawn } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { layerBudgets } from "../../lib/layer-budgets.js";
import { recall, recallDialogue, root } from "../engine/support.js";
import { FakeHub } from "../fake-hub.js";

const dialogue = recallDialogue(1000);
const [first, second] = dialogue.questions;
if (first === undefined || second === undefined) throw new Error("the dialogue has too few questions");
const directory = mkdtempSync(join(tmpdir(), "longhaul-cli-"));
const history = join(directory, "history.txt");
// As editors leave it: the last line break is none of the text.
writeFileSync(history, `${dialogue.text}\n`);
const bounded = ["--policy", "keydiff", "--budget", "256", "--block", "128", "--tail", "64"];

afterAll(() => rmSync(directory, { recursive: true, force: true }));

interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the program as it is installed. `onError` sees what came on stderr so far and may press Ctrl-C, once. */
function longhaul(
  args: readonly string[],
  {
    input = "",
    env = {},
    onError = () => {},
  }: { input?: string; env?: NodeJS.ProcessEnv; onError?: (text: string, interrupt: () => void) => void } = {},
): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [join(root, "dist/cli.mjs"), ...args], {
      env: { ...process.env, ...env },
    });
    const outcome = { stdout: "", stderr: "" };
    let interrupted = false;
    const interrupt = () => {
      if (!interrupted) child.kill("SIGINT");
      interrupted = true;
    };
    child.stdout.setEncoding("utf8").on("data", (text) => {
      outcome.stdout += text;
    });
    child.stderr.setEncoding("utf8").on("data", (text) => {
      outcome.stderr += text;
      onError(outcome.stderr, interrupt);
    });
    child.on("error", reject);
    child.on("close", (code) => resolve({ code, ...outcome }));
    child.stdin.end(input);
  });
}

describe("usage", () => {
  it("prints help and version on stdout", async () => {
    expect(await longhaul(["--version"])).toEqual({ code: 0, stdout: "0.1.0\n", stderr: "" });
    for (const args of [
      ["--help"],
      ["help"],
      ["ask", "--help"],
      ["help", "ask"],
      ["ask", "--nonsense", "-h"],
    ]) {
      const { code, stdout, stderr } = await longhaul(args);
      expect([code, stderr]).toEqual([0, ""]);
      expect(stdout).toContain("Usage: longhaul");
    }
  });

  it.each([
    [[], "a command is missing", "longhaul --help"],
    [["sak"], "unknown command sak", "longhaul --help"],
    [["ask"], "MODEL is missing", "longhaul ask --help"],
    [["ask", recall, "--question", "x"], "--history is missing", "longhaul ask --help"],
    [["ask", recall, "--history", history], "--question is missing", "longhaul ask --help"],
    [["run", recall, "--promt", "x"], "unknown option --promt, did you mean --prompt?", "longhaul run --help"],
    [["run", recall, "--prompt", "x", "--max-tokens", "many"], "--max-tokens must be", "longhaul run --help"],
    [["run", recall, "--prompt", "x", "--system", "y"], "--system needs --chat", "longhaul run --help"],
    [["run", recall, "--prompt", "-"], "--prompt is empty", "longhaul run --help"],
    [["chat", recall, "--sample", "1"], "--sample needs a --history", "longhaul chat --help"],
    [
      ["chat", recall, "--policy", "epicache", "--budget", "64"],
      "--policy epicache needs a --history",
      "longhaul chat --help",
    ],
  ])("refuses %j with exit code 2", async (args, message, help) => {
    const { code, stdout, stderr } = await longhaul(args);
    expect([code, stdout]).toEqual([2, ""]);
    expect(stderr).toContain(`longhaul: ${message}`);
    expect(stderr).toContain(`${help} says more`);
  });

  it.each([
    [["run", "/no/such/model", "--prompt", "x"], "ERR_INVALID_ARGUMENT: model must be"],
    [["ask", recall, "--history", "/no/such/file", "-q", "x"], "ERR_INVALID_ARGUMENT: /no/such/file"],
    [
      ["ask", recall, "--history", history, "-q", "x", ...bounded, "--kv-bytes", "10KB"],
      "ERR_OUT_OF_MEMORY: this conversation needs",
    ],
  ])("fails at %j with exit code 1 and no stack", async (args, message) => {
    const { code, stdout, stderr } = await longhaul(args);
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr).toContain(`longhaul: ${message}`);
    expect(stderr).not.toMatch(/^\s+at /m);
  });
});

describe("info", () => {
  it("says what there is", async () => {
    const { code, stdout } = await longhaul(["info"]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^longhaul +0\.1\.0 on Node \d+/m);
    expect(stdout).toMatch(/^binary +\/.*\.node \((built here|prebuilt)\)$/m);
    expect(stdout).toMatch(/^GPU +\S.*$/m);
    expect(stdout).toMatch(/^device cpu +\w+, \d+ threads?$/m);
  });

  it("says the same as JSON", async () => {
    const { stdout, stderr } = await longhaul(["info", "--json"]);
    expect(stderr).toBe("");
    const report = JSON.parse(stdout);
    expect(report.version).toBe("0.1.0");
    const names = report.devices.map((device: { name: string }) => device.name);
    expect(names.slice(0, 2)).toEqual(["cpu", "reference"]);
    expect(names[2]).toBe(report.gpu.usable ? "cuda:0" : "cuda");
    if (!report.gpu.usable) expect(report.gpu.reason).toBe(report.devices[2].description);
  });
});

describe("ask", () => {
  it("answers every question from the same cache", async () => {
    const questions = ["-q", first.question, "-q", second.question];
    const { code, stdout, stderr } = await longhaul([
      "ask",
      recall,
      "--history",
      history,
      ...questions,
      ...bounded,
    ]);
    expect(code).toBe(0);
    expect(stdout).toBe(
      `Q: ${first.question}\nA: ${first.answer}\nQ: ${second.question}\nA: ${second.answer}\n`,
    );
    expect(stderr).toMatch(
      /memory \(keydiff\): \d+ tokens seen, .* rows kept per head, .* at peak, .* reserved/,
    );
  });

  it("prints one JSON document", async () => {
    const args = ["ask", recall, "--history", history, "-q", first.question, "-q", first.question, "--json"];
    const { code, stdout } = await longhaul([...args, ...bounded]);
    expect(code).toBe(0);
    const { answers, memory, history: source } = JSON.parse(stdout);
    expect(source).toMatchObject({ file: history, format: "text" });
    // Forgotten after it was answered, so that it is answered the same again.
    expect(answers.map((answer: { text: string }) => answer.text)).toEqual([first.answer, first.answer]);
    expect(answers[0]).toMatchObject({ question: first.question, finishReason: "stop" });
    expect(memory.policy).toBe("keydiff");
    expect(memory.tokensSeen).toBe(dialogue.tokens);
    for (const layer of memory.rows) expect(layer[0] + layer[1]).toBe(2 * 256);
    expect(memory.peakBytes).toBeLessThanOrEqual(memory.reservedBytes);
  });

  it("remembers the history in episodes", async () => {
    const episodic = ["--policy", "epicache", "--budget", "600", "--episodes", "3", "--no-instruction"];
    const args = ["ask", recall, "--history", history, "-q", first.question, ...episodic];
    const { code, stdout, stderr } = await longhaul(args);
    expect([code, stdout]).toEqual([0, `Q: ${first.question}\nA: ${first.answer}\n`]);
    expect(stderr).toMatch(/memory \(epicache\): \d+ tokens seen, .* rows kept per head in 3 episodes, /);
  });

  it("reads messages, and one budget for each layer", async () => {
    const file = join(directory, "messages.jsonl");
    const said = [`${first.answer} .`, `${second.answer} .`];
    writeFileSync(file, said.map((content) => JSON.stringify({ role: "user", content })).join("\n"));
    const memory = ["--policy", "streaming", "--budget", "8,16,24", "--block", "16", "--tail", "32"];
    const { stdout } = await longhaul([
      "ask",
      recall,
      "--history",
      file,
      "-q",
      second.question,
      ...memory,
      "--json",
    ]);
    const document = JSON.parse(stdout);
    expect(document.history.format).toBe("messages");
    expect(document.memory.rows).toEqual([
      [8, 8],
      [15, 15],
      [15, 15],
    ]);
  });

  it("stops at Ctrl-C with exit code 130", async () => {
    const args = ["ask", recall, "--history", history, "-q", first.question, "--device", "reference"];
    const { code, stdout, stderr } = await longhaul(args, {
      onError: (text, interrupt) => {
        if (text.includes("loaded")) interrupt();
      },
    });
    expect([code, stdout]).toEqual([130, ""]);
    expect(stderr).toContain("longhaul: interrupted\n");
  });
});

describe("run", () => {
  const statement = "session travel . user : oslo color is";

  it("continues a text, the same way with the same seed", async () => {
    const args = ["run", recall, "--max-tokens", "6", "--temperature", "1.5", "--seed", "11"];
    const { code, stdout } = await longhaul([...args, "--prompt", statement]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^.+\n$/);
    expect((await longhaul([...args, "--prompt", "-"], { input: `${statement}\n` })).stdout).toBe(stdout);
  });

  it("puts a message into the chat template", async () => {
    const args = ["run", recall, "--prompt", first.question, "--chat", "--max-tokens", "3", "--json"];
    const { text, usage, finishReason } = JSON.parse((await longhaul(args)).stdout);
    // "<bos> user : ENTITY ATTRIBUTE ? assistant :" makes the model repeat what it is asked for.
    expect(text).toBe(first.answer.split(" ").slice(0, 3).join(" "));
    expect(usage).toEqual({ promptTokens: 8, completionTokens: 3 });
    expect(finishReason).toBe("length");
  });
});

describe("chat", () => {
  it("answers line by line from a pipe and shows the memory on stderr", async () => {
    const { code, stdout, stderr } = await longhaul(["chat", recall, "--history", history, ...bounded], {
      input: `${first.question}\n\n/memory\n${second.question}\n/quit\nnever asked ?\n`,
    });
    expect(code).toBe(0);
    expect(stdout).toBe(`${first.answer}\n${second.answer}\n`);
    const seen = [...stderr.matchAll(/memory \(keydiff\): (\d+) tokens seen/g)].map((match) =>
      Number(match[1]),
    );
    expect(seen).toHaveLength(4);
    expect(seen[0]).toBe(dialogue.tokens);
    expect(seen[1]).toBeGreaterThan(dialogue.tokens);
    expect(seen[2]).toBe(seen[1]);
    expect(seen[3]).toBeGreaterThan(seen[1] as number);
    expect(stderr).toContain("layer 2:");
  });

  it("forgets everything at /reset", async () => {
    const { stderr } = await longhaul(["chat", recall, "--max-tokens", "4"], {
      input: `${first.question}\n/reset\n`,
    });
    expect(stderr.match(/memory \(full\): \d+ tokens seen/g)).toEqual([
      "memory (full): 0 tokens seen",
      expect.stringMatching(/: 1\d tokens seen/),
      "memory (full): 0 tokens seen",
    ]);
  });

  it("goes on with what /save wrote", async () => {
    const snapshot = join(directory, "chat.snapshot");
    const saved = await longhaul(["chat", recall, "--history", history, ...bounded], {
      input: `/save\n/save ${snapshot}\n${first.question}\n`,
    });
    expect([saved.code, saved.stdout]).toEqual([0, `${first.answer}\n`]);
    expect(saved.stderr).toMatch(/unknown command \/save; .*\n.*saved [\d.]+ KiB in .*chat\.snapshot/);
    const restored = await longhaul(["chat", recall, "--restore", snapshot], {
      input: `${first.question}\n/reset\n`,
    });
    expect([restored.code, restored.stdout]).toEqual([0, `${first.answer}\n`]);
    const seen = (text: string) => text.match(/memory \(keydiff\): .*/g) ?? [];
    expect(seen(restored.stderr)).toEqual([...seen(saved.stderr), seen(saved.stderr)[0]]);

    const refused = await longhaul(["chat", recall, "--restore", snapshot, "--budget", "64"]);
    expect(refused.code).toBe(2);
    expect(refused.stderr).toContain("--budget does nothing with --restore");
    const foreign = await longhaul(["chat", recall, "--restore", history]);
    expect(foreign.code).toBe(1);
    expect(foreign.stderr).toMatch(/longhaul: ERR_CORRUPT_FILE: .*history\.txt: it is no snapshot of longhaul/);
  });

  it("ends with exit code 1 when a piped message fails", async () => {
    const { code, stdout, stderr } = await longhaul(["chat", recall, "--kv-bytes", "100KiB"], {
      input: `${first.question}\n`,
    });
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr).toContain("longhaul: ERR_OUT_OF_MEMORY: ");
  });
});

describe("profile", () => {
  const model = join(directory, "model");
  const file = join(model, "longhaul-profile.json");
  const measured = ["profile", model, "--text", history, "--block", "128"];
  const layered = ["--policy", "keydiff", "--budget", "64", "--block", "128", "--layers", "profiled"];

  beforeAll(() => cpSync(recall, model, { recursive: true }));

  it("writes beside the model what --layers profiled reads", async () => {
    const question = ["ask", model, "--history", history, "-q", first.question, "--json", ...layered];
    const early = await longhaul(question);
    expect([early.code, early.stdout]).toEqual([1, ""]);
    expect(early.stderr).toContain("ERR_INVALID_ARGUMENT");
    expect(early.stderr).toContain(`there is no layer profile; make one with: longhaul profile ${model}`);

    const { code, stdout, stderr } = await longhaul(measured);
    expect(code).toBe(0);
    const { similarity, options, tokens } = JSON.parse(readFileSync(file, "utf8"));
    expect(options).toEqual({ sinks: 4, window: 64, block: 128 });
    expect(stdout).toBe(
      `layer  similarity\n${similarity
        .map((one: number, layer: number) => `    ${layer}    ${one.toFixed(6)}\n`)
        .join("")}`,
    );
    expect(stderr).toContain(`profiled ${tokens} tokens in `);
    expect(stderr).toContain(`written to ${file}\n`);

    const rowsOf = async (...more: string[]) => {
      const { memory } = JSON.parse((await longhaul([...question, ...more])).stdout);
      return memory.rows.map(([a, b]: [number, number]) => a + b);
    };
    const budgets = layerBudgets(similarity, 64);
    expect(await rowsOf()).toEqual(budgets.map((rows) => 2 * rows));
    expect(await rowsOf("--alpha", "0")).toEqual([128, 128, 128]);
  });

  it("writes elsewhere, and prints one JSON document", async () => {
    const output = join(directory, "elsewhere.json");
    const args = [...measured, "--text", history, "--max-tokens", "400", "--sinks", "2", "--window", "32"];
    const { code, stdout } = await longhaul([...args, "--output", output, "--json"]);
    expect(code).toBe(0);
    const document = JSON.parse(stdout);
    expect(document).toMatchObject({ model, file: output, texts: 2, tokens: 800, sinks: 2, window: 32 });
    const written = JSON.parse(readFileSync(output, "utf8")).similarity as number[];
    expect(document.similarity).toEqual(written.map((one) => Number(one.toPrecision(6))));
  });

  it.each([
    [["profile", recall], 2, "--text is missing"],
    [["profile", recall, "--text", "/no/such/file"], 1, "ERR_INVALID_ARGUMENT: /no/such/file: cannot be read"],
    [[...measured, "--output", "/no/such/place.json"], 1, "ERR_INVALID_ARGUMENT: cannot write /no/such/place"],
    [["profile", recall, "--text", history], 1, "ERR_INVALID_ARGUMENT: texts[0] has"],
    [["ask", recall, "--history", history, "-q", "x", "--alpha", "2"], 2, "--alpha needs --layers"],
    [["chat", recall, "--layers", "profiled"], 2, "--layers does nothing for --policy full"],
  ])("fails at %j with exit code %i", async (args, expected, message) => {
    const { code, stdout, stderr } = await longhaul(args);
    expect([code, stdout]).toEqual([expected, ""]);
    expect(stderr).toContain(`longhaul: ${message}`);
  });
});

describe("a model on the hub", () => {
  const hub = new FakeHub("some-org/recall-llama");

  beforeAll(async () => {
    const files = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"];
    hub.addFromDisk(...[...files, "model.safetensors"].map((name) => join(recall, name)));
    await hub.listen();
  });
  afterAll(() => hub.close());

  it("is downloaded once", async () => {
    const env = { HF_ENDPOINT: hub.url, HF_HOME: join(directory, "hub"), HF_TOKEN: "", HF_HUB_OFFLINE: "" };
    const args = ["run", "some-org/recall-llama", "--prompt", "session travel .", "--max-tokens", "2"];
    const fresh = await longhaul(args, { env });
    expect([fresh.code, fresh.stderr]).toEqual([0, expect.stringContaining("loaded some-org/recall-llama")]);
    const downloads = hub.downloads.length;
    expect(downloads).toBeGreaterThan(0);
    expect((await longhaul(args, { env })).stdout).toBe(fresh.stdout);
    expect(hub.downloads).toHaveLength(downloads);
  });

  it("has its profile in the cache, where it was downloaded to", async () => {
    const env = { HF_ENDPOINT: hub.url, HF_HOME: join(directory, "hub"), HF_TOKEN: "", HF_HUB_OFFLINE: "" };
    const args = ["some-org/recall-llama", "--text", history, "--block", "128"];
    const { code, stderr } = await longhaul(["profile", ...args], { env });
    expect(code).toBe(0);
    expect(stderr).toMatch(/^written to .*\/hub\/models--some-org--recall-llama\/snapshots\/.*profile\.json$/m);
    const budget = ["--policy", "keydiff", "--budget", "64", "--layers", "profiled"];
    const asked = ["ask", "some-org/recall-llama", "--history", history, "-q", first.question, ...budget];
    expect((await longhaul(asked, { env })).code).toBe(0);
  });

  it("that is not there fails with advice", async () => {
    const env = { HF_ENDPOINT: hub.url, HF_HOME: join(directory, "hub"), HF_TOKEN: "", HF_HUB_OFFLINE: "" };
    const { code, stderr } = await longhaul(["run", "some-org/other", "--prompt", "x"], { env });
    expect(code).toBe(1);
    expect(stderr).toMatch(/^longhaul: ERR_INVALID_ARGUMENT: there is no some-org\/other .*check the spelling/);
  });
});
