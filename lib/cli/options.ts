import { DEVICES, type DeviceName, requireDevice } from "../device.js";
import { BUILDERS } from "../episodes/builder.js";
import { EPISODIC_POLICIES } from "../episodes/options.js";
import { WINDOW_UNITS } from "../episodes/windows.js";
import { type MemoryOptions, POLICIES, POSITIONS, parseBytes } from "../memory.js";
import { type Arguments, type OptionSpecs, UsageError } from "./arguments.js";

const LEVELS = ["pair", "head"] as const;

export const helpOption: OptionSpecs = {
  help: { type: "boolean", short: "h", help: "this text" },
};

export const jsonOption: OptionSpecs = {
  json: { type: "boolean", help: "print one JSON document on stdout instead of text" },
};

export const engineOptions: OptionSpecs = {
  device: {
    type: "string",
    value: "DEVICE",
    help: `what computes: ${DEVICES}; default auto`,
    group: "Engine",
  },
  threads: {
    type: "string",
    value: "N",
    help: "threads of the CPU; default one per available core",
    group: "Engine",
  },
  "kv-bytes": {
    type: "string",
    value: "SIZE",
    help: "size of the KV pool, such as 512MB or 2GiB; default at most a quarter of the free memory",
    group: "Engine",
  },
};

export const samplingOptions: OptionSpecs = {
  "max-tokens": { type: "string", value: "N", help: "longest answer; default 256", group: "Answer" },
  temperature: {
    type: "string",
    value: "X",
    help: "0 always takes the most likely token; default what the model recommends, else 0",
    group: "Answer",
  },
  "top-k": { type: "string", value: "N", help: "draw among the N most likely tokens", group: "Answer" },
  "top-p": {
    type: "string",
    value: "X",
    help: "draw among the most likely tokens that sum up to X",
    group: "Answer",
  },
  "min-p": {
    type: "string",
    value: "X",
    help: "draw among tokens with at least X times the top probability",
    group: "Answer",
  },
  "repetition-penalty": {
    type: "string",
    value: "X",
    help: "above 1 makes tokens that were there less likely",
    group: "Answer",
  },
  seed: { type: "string", value: "N", help: "makes drawing repeatable; default a random one", group: "Answer" },
};

export const memoryOptions: OptionSpecs = {
  policy: {
    type: "string",
    value: "NAME",
    help: `what the KV cache keeps: ${POLICIES.join(", ")}; default full`,
    group: "Memory",
  },
  budget: {
    type: "string",
    value: "ROWS",
    help: "rows kept per KV head in each layer; a comma-separated list gives each layer its own",
    group: "Memory",
  },
  layers: {
    type: "string",
    value: "profiled|FILE",
    help: "divides the budget among layers by the profile beside the model, or in FILE: see longhaul profile",
    group: "Memory",
  },
  alpha: {
    type: "string",
    value: "X",
    help: "of --layers: the larger, the more goes to sensitive layers; 0 to none in particular; default 2",
    group: "Memory",
  },
  block: {
    type: "string",
    value: "TOKENS",
    help: "tokens of one prefill pass, with an eviction after each; default 512",
    group: "Memory",
  },
  tail: {
    type: "string",
    value: "TOKENS",
    help: "rows for questions, answers and new turns before they are evicted too; default 512",
    group: "Memory",
  },
  level: {
    type: "string",
    value: LEVELS.join("|"),
    help: "head: every head keeps the budget; pair: the heads of a layer compete for it; default pair",
    group: "Memory",
  },
  positions: {
    type: "string",
    value: POSITIONS.join("|"),
    help: "packed: go on behind the model's last position, with kept rows moved up to each other; default absolute",
    group: "Memory",
  },
  sinks: {
    type: "string",
    value: "N",
    help: "streaming: first rows that always stay; default 4",
    group: "Memory",
  },
  window: {
    type: "string",
    value: "N",
    help: "snapkv: last queries that score a block; default 32",
    group: "Memory",
  },
  kernel: {
    type: "string",
    value: "N",
    help: "snapkv: neighbouring scores averaged, odd; default 5",
    group: "Memory",
  },
  "patched-prompt": {
    type: "string",
    value: "TEXT",
    help: "patched-prompt: the text whose attention scores a block",
    group: "Memory",
  },
  "repeat-prompt": {
    type: "string",
    value: "TEXT",
    help: "kvzip: the text that asks for the repetition of a block; default an instruction",
    group: "Memory",
  },
  episodes: {
    type: "string",
    value: "N",
    help: "episodic, epicache: caches of ROWS each; MIN-MAX takes the number that divides the history best; default 4",
    group: "Memory",
  },
  windows: {
    type: "string",
    value: WINDOW_UNITS.join("|"),
    help: "episodic, epicache: what the history is cut into before it is clustered; default utterances",
    group: "Memory",
  },
  "window-size": {
    type: "string",
    value: "N",
    help: "episodic, epicache: that many of them a window; default 4 utterances, 8 sentences or 128 tokens",
    group: "Memory",
  },
  representatives: {
    type: "string",
    value: "N",
    help: "episodic, epicache: windows of an episode whose attention scores a block; default 8, of episodic 0",
    group: "Memory",
  },
  "top-episodes": {
    type: "string",
    value: "1|2",
    help: "epicache: 2 answers from the caches of the two episodes that a question is most like; default 1",
    group: "Memory",
  },
  "no-instruction": {
    type: "boolean",
    help: "episodic, epicache: leave out the instruction in front of those windows",
    group: "Memory",
  },
  builder: {
    type: "string",
    value: BUILDERS.join("|"),
    help: "epicache: how the caches are made of the history; default per-episode",
    group: "Memory",
  },
  union: {
    type: "string",
    value: "ROWS",
    help: "epicache with builder shared: rows a head of the cache that all episodes share meanwhile; default twice the budget",
    group: "Memory",
  },
};

const EPISODE_OPTIONS = [
  "episodes",
  "windows",
  "window-size",
  "representatives",
  "top-episodes",
  "no-instruction",
  "builder",
  "union",
];

/** The options of `Engine.load`. */
export function readEngineOptions(values: Arguments) {
  return defined({
    device: readDevice(values),
    threads: values.integer("threads", 1),
    kvBytes: readBytes(values, "kv-bytes"),
  });
}

/** The options of `conversation.ask` and `engine.generate` that say how tokens are drawn. */
export function readSamplingOptions(values: Arguments) {
  return defined({
    maxTokens: values.integer("max-tokens", 1),
    temperature: values.number("temperature", 0),
    topK: values.integer("top-k", 0),
    topP: values.number("top-p", 0, 1),
    minP: values.number("min-p", 0, 1),
    repetitionPenalty: values.number("repetition-penalty", 0),
    seed: values.integer("seed", 0),
  });
}

/** The option `memory` of `engine.conversation`. An option that the policy would ignore is a usage error. */
export function readMemoryOptions(values: Arguments) {
  const policy = values.choice("policy", POLICIES) ?? (values.has("budget") ? "episodic" : "full");
  const evicting = POLICIES.filter((name) => name !== "full");
  for (const option of ["budget", "tail", "layers", "positions"]) belongsTo(values, policy, option, evicting);
  // The heads of these keep the same rows.
  const alike = ["streaming", "tova"];
  belongsTo(
    values,
    policy,
    "level",
    evicting.filter((name) => !alike.includes(name)),
  );
  if (policy !== "full" && !values.has("budget")) throw new UsageError(`--policy ${policy} needs a --budget`);
  belongsTo(values, policy, "sinks", ["streaming"]);
  belongsTo(values, policy, "window", ["snapkv", "snapkv-refed"]);
  belongsTo(values, policy, "kernel", ["snapkv"]);
  belongsTo(values, policy, "patched-prompt", ["patched-prompt"]);
  if (policy === "patched-prompt" && !values.has("patched-prompt"))
    throw new UsageError("--policy patched-prompt needs a --patched-prompt");
  belongsTo(values, policy, "repeat-prompt", ["kvzip"]);
  for (const option of EPISODE_OPTIONS) belongsTo(values, policy, option, EPISODIC_POLICIES);
  if (values.has("union") && values.text("builder") !== "shared")
    throw new UsageError("--union needs --builder shared");
  const windows = defined({
    by: values.choice("windows", WINDOW_UNITS),
    size: values.integer("window-size", 1),
  });
  return defined({
    policy,
    budget: values.integers("budget", 1),
    layers: readLayers(values),
    block: values.integer("block", 1),
    tail: values.integer("tail", 1),
    level: values.choice("level", LEVELS),
    positions: values.choice("positions", POSITIONS),
    sinks: values.integer("sinks", 0),
    window: values.integer("window", 1),
    kernel: values.integer("kernel", 1),
    prompt: values.text("patched-prompt") ?? values.text("repeat-prompt"),
    episodes: readEpisodes(values),
    windows: Object.keys(windows).length > 0 ? windows : undefined,
    representatives: values.integer("representatives", 1),
    topEpisodes: values.integer("top-episodes", 1) as 1 | 2 | undefined,
    instruction: values.flag("no-instruction") ? false : undefined,
    builder: values.choice("builder", BUILDERS),
    union: values.integers("union", 1),
  });
}

function readLayers(values: Arguments): MemoryOptions["layers"] {
  const alpha = values.number("alpha", 0);
  const layers = values.text("layers");
  if (layers === undefined) {
    if (alpha !== undefined) throw new UsageError("--alpha needs --layers");
    return undefined;
  }
  return { profile: layers === "profiled" ? true : layers, ...defined({ alpha }) };
}

/** A number, or two with a dash between them. */
function readEpisodes(values: Arguments) {
  const range = /^(\d+)-(\d+)$/.exec(values.text("episodes") ?? "");
  if (range === null) return values.integer("episodes", 1);
  const [min, max] = [Number(range[1]), Number(range[2])];
  if (min >= 1 && min <= max) return { min, max };
  throw new UsageError(`--episodes must be a number or a range such as 2-6, got "${range[0]}"`);
}

function readDevice(values: Arguments): DeviceName | undefined {
  const name = values.text("device");
  try {
    return name === undefined ? undefined : requireDevice(name);
  } catch (error) {
    throw new UsageError(`--${(error as Error).message}`, { cause: error });
  }
}

function readBytes(values: Arguments, option: string): number | undefined {
  const text = values.text(option);
  try {
    return text === undefined ? undefined : parseBytes(`--${option}`, text);
  } catch (error) {
    throw new UsageError((error as Error).message, { cause: error });
  }
}

function belongsTo(values: Arguments, policy: string, option: string, policies: readonly string[]): void {
  if (values.has(option) && !policies.includes(policy))
    throw new UsageError(`--${option} does nothing for --policy ${policy}, only for ${policies.join(", ")}`);
}

/** Without the keys whose value is undefined, so that the library's defaults apply. */
export function defined<T extends object>(options: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };
}
