import { describe, expect, it } from "vitest";
import { type CommandSpec, nearest, parseArguments, UsageError } from "../../lib/cli/arguments.js";
import { commands } from "../../lib/cli/commands.js";
import { commandHelp, mainHelp } from "../../lib/cli/help.js";
import { readEngineOptions, readMemoryOptions, readSamplingOptions } from "../../lib/cli/options.js";
import { count, formatBytes, formatDuration, formatRate, tokenRate } from "../../lib/cli/units.js";

const ask = commands.find(({ name }) => name === "ask") as CommandSpec;

function parse(...args: string[]) {
  return parseArguments(ask, ["model", ...args]);
}

describe("arguments", () => {
  it("reads positionals, repeated options and the = form", () => {
    const values = parse("--question", "one", "--question=two", "-q", "three", "--json", "--history=a b.txt");
    expect(values.positional("MODEL")).toBe("model");
    expect(values.texts("question")).toEqual(["one", "two", "three"]);
    expect(values.flag("json")).toBe(true);
    expect(values.requiredText("history")).toBe("a b.txt");
    expect(values.text("system")).toBeUndefined();
  });

  it.each([
    [["--budgte", "64"], "unknown option --budgte, did you mean --budget?"],
    [["--zebra"], "unknown option --zebra"],
    [["-x"], "unknown option -x"],
    [["--history"], "--history argument missing"],
    [["--json=yes"], "--json does not take an argument"],
    [["surplus"], 'unexpected argument "surplus"'],
  ])("refuses %j", (args, message) => {
    expect(() => parse(...args)).toThrow(new UsageError(message));
  });

  it("refuses a call without its model", () => {
    expect(() => parseArguments(ask, [])).toThrow(new UsageError("MODEL is missing"));
  });

  it("suggests only words that could be meant", () => {
    expect(nearest("aks", ["ask", "chat"])).toBeUndefined();
    expect(nearest("chta", ["ask", "chart"])).toBeUndefined();
    expect(nearest("ch", ["ask", "chat"])).toBeUndefined();
    expect(nearest("inof", ["ask", "inf", "info"])).toBe("inf");
    expect(nearest("temprature", ["temperature", "threads"])).toBe("temperature");
  });
});

describe("options", () => {
  it("passes on only what was given", () => {
    expect(readSamplingOptions(parse())).toEqual({});
    expect(readEngineOptions(parse())).toEqual({});
    expect(readMemoryOptions(parse())).toEqual({ policy: "full" });
    expect(readSamplingOptions(parse("--temperature", "0", "--top-p", ".9", "--seed", "7"))).toEqual({
      temperature: 0,
      topP: 0.9,
      seed: 7,
    });
    expect(readEngineOptions(parse("--kv-bytes", "2MiB", "--threads", "2", "--device", "cpu"))).toEqual({
      device: "cpu",
      threads: 2,
      kvBytes: 2 * 1024 * 1024,
    });
  });

  it("reads one budget, and one for each layer", () => {
    expect(readMemoryOptions(parse("--policy", "keydiff", "--budget", "64"))).toEqual({
      policy: "keydiff",
      budget: 64,
    });
    expect(readMemoryOptions(parse("--policy", "keydiff", "--budget", "64,32,16")).budget).toEqual([
      64, 32, 16,
    ]);
  });

  it("reads the prompt of a policy by its own name", () => {
    const common = ["--budget", "64"];
    const repeated = readMemoryOptions(parse("--policy", "kvzip", ...common, "--repeat-prompt", "again"));
    expect(repeated).toEqual({ policy: "kvzip", budget: 64, prompt: "again" });
    const patched = readMemoryOptions(parse("--policy", "patched-prompt", ...common, "--patched-prompt", "x"));
    expect(patched).toEqual({ policy: "patched-prompt", budget: 64, prompt: "x" });
  });

  it("reads where the division of the budget among layers comes from", () => {
    const layers = (...args: string[]) =>
      readMemoryOptions(parse("--policy", "keydiff", "--budget", "64", ...args)).layers;
    expect(layers()).toBeUndefined();
    expect(layers("--layers", "profiled")).toEqual({ profile: true });
    expect(layers("--layers", "some/file.json", "--alpha", "1.5")).toEqual({
      profile: "some/file.json",
      alpha: 1.5,
    });
    expect(() => layers("--alpha", "1")).toThrow(new UsageError("--alpha needs --layers"));
  });

  it("reads episodes, a number or a range, and their windows", () => {
    expect(readMemoryOptions(parse("--budget", "64", "--episodes", "3"))).toEqual({
      policy: "episodic",
      budget: 64,
      episodes: 3,
    });
    const episodic = ["--policy", "epicache", "--budget", "64"];
    expect(readMemoryOptions(parse(...episodic))).toEqual({ policy: "epicache", budget: 64 });
    expect(readMemoryOptions(parse(...episodic, "--episodes", "6", "--window-size", "3"))).toEqual({
      policy: "epicache",
      budget: 64,
      episodes: 6,
      windows: { size: 3 },
    });
    const all = [
      "--episodes",
      "2-6",
      "--windows",
      "tokens",
      "--representatives",
      "5",
      "--no-instruction",
      "--top-episodes",
      "2",
      "--positions",
      "packed",
    ];
    expect(readMemoryOptions(parse(...episodic, ...all, "--builder", "shared", "--union", "200"))).toEqual({
      policy: "epicache",
      budget: 64,
      episodes: { min: 2, max: 6 },
      windows: { by: "tokens" },
      representatives: 5,
      topEpisodes: 2,
      positions: "packed",
      instruction: false,
      builder: "shared",
      union: 200,
    });
  });

  it.each([
    [["--max-tokens", "0"], '--max-tokens must be an integer of at least 1, got "0"'],
    [["--max-tokens", "1e2"], '--max-tokens must be an integer of at least 1, got "1e2"'],
    [["--temperature", "hot"], '--temperature must be a number of at least 0, got "hot"'],
    [["--temperature", ""], '--temperature must be a number of at least 0, got ""'],
    [["--top-p", "2"], '--top-p must be a number from 0 to 1, got "2"'],
  ])("refuses %j", (args, message) => {
    expect(() => readSamplingOptions(parse(...args))).toThrow(new UsageError(message));
  });

  it.each([
    [["--policy", "best"], '--policy must be one of full, streaming, .*, got "best"'],
    [["--policy", "keydiff"], "--policy keydiff needs a --budget"],
    [["--policy", "full", "--budget", "64"], "--budget does nothing for --policy full, only for streaming"],
    [["--policy", "keydiff", "--budget", "64,x"], '--budget must be an integer of at least 1, got "x"'],
    [["--policy", "keydiff", "--budget", "64", "--sinks", "2"], "--sinks does nothing for --policy keydiff"],
    [["--policy", "patched-prompt", "--budget", "64"], "needs a --patched-prompt"],
    [
      ["--policy", "keydiff", "--budget", "64", "--episodes", "4"],
      "--episodes does nothing for --policy keydiff",
    ],
    [["--policy", "epicache", "--budget", "64", "--episodes", "4-2"], "--episodes must be a number or a range"],
    [
      ["--policy", "epicache", "--budget", "64", "--episodes", "some"],
      "--episodes must be an integer of at least 1",
    ],
    [["--policy", "epicache", "--budget", "64", "--windows", "days"], "--windows must be one of utterances"],
    [
      ["--policy", "kvzip", "--budget", "64", "--patched-prompt", "x"],
      "--patched-prompt does nothing for --policy kvzip, only for patched-prompt",
    ],
    [
      ["--policy", "keydiff", "--budget", "64", "--repeat-prompt", "x"],
      "--repeat-prompt does nothing for --policy keydiff, only for kvzip",
    ],
    [
      ["--policy", "tova", "--budget", "64", "--level", "head"],
      "--level does nothing for --policy tova, only for snapkv",
    ],
    [["--level", "head"], "--level does nothing for --policy full"],
  ])("refuses %j", (args, message) => {
    expect(() => readMemoryOptions(parse(...args))).toThrow(UsageError);
    expect(() => readMemoryOptions(parse(...args))).toThrow(new RegExp(message));
  });

  it.each([
    ["--kv-bytes", "lots"],
    ["--device", "gpu"],
    ["--threads", "-1"],
  ])("refuses %s %s", (...args) => {
    expect(() => readEngineOptions(parse(`${args[0]}=${args[1]}`))).toThrow(UsageError);
  });
});

describe("help", () => {
  it("names every command, and every option of each", () => {
    const main = mainHelp("1.2.3", commands);
    expect(main).toContain("longhaul 1.2.3");
    for (const command of commands) {
      expect(main).toContain(command.summary);
      const help = commandHelp(command);
      for (const option of Object.keys(command.options)) expect(help).toContain(`--${option}`);
      expect(Math.max(...help.split("\n").map((line) => line.length))).toBeLessThanOrEqual(112);
    }
  });
});

describe("units", () => {
  it("writes what people read", () => {
    expect([0, 1023, 1024, 1536, 150 * 1024, 3 * 2 ** 20, 5 * 2 ** 40].map(formatBytes)).toEqual([
      "0 B",
      "1023 B",
      "1.0 KiB",
      "1.5 KiB",
      "150 KiB",
      "3.0 MiB",
      "5.0 TiB",
    ]);
    expect([3.14, 42.4, 999.4, 1500].map(formatDuration)).toEqual(["3.1 ms", "42 ms", "999 ms", "1.5 s"]);
    expect([12.34, 310.2].map(formatRate)).toEqual(["12.3 tokens/s", "310 tokens/s"]);
    expect([count(1, "token"), count(2, "token")]).toEqual(["1 token", "2 tokens"]);
    expect([tokenRate(10, 500), tokenRate(0, 500), tokenRate(5, 0)]).toEqual([20, null, null]);
  });
});
