import type { CommandSpec, OptionSpecs } from "./arguments.js";
import { engineOptions, helpOption, jsonOption, memoryOptions, samplingOptions } from "./options.js";

const MODEL = { name: "MODEL", help: "a model's directory, or its name on the hub such as org/name" };
const historyOption: OptionSpecs = {
  history: {
    type: "string",
    value: "FILE",
    help: "the history: JSON or JSON lines of { role, content }, a LoCoMo dialogue, or plain text",
  },
  sample: { type: "string", value: "ID", help: "which dialogue of a LoCoMo file; default the first" },
};
const systemOption: OptionSpecs = {
  system: { type: "string", value: "TEXT", help: "the system prompt" },
};

/** Every command of the program. A command's own module is loaded only when it runs. */
export const commands: readonly CommandSpec[] = [
  {
    name: "info",
    summary: "Say what this machine offers and which binary is in use",
    positionals: [],
    options: { ...jsonOption, ...helpOption },
    load: () => import("./info.js"),
  },
  {
    name: "run",
    summary: "Continue a text, or answer one message",
    positionals: [MODEL],
    options: {
      prompt: { type: "string", short: "p", value: "TEXT", help: "what to start from; - reads it from stdin" },
      chat: { type: "boolean", help: "the prompt is a user's message: put it into the model's chat template" },
      ...systemOption,
      ...jsonOption,
      ...helpOption,
      ...samplingOptions,
      ...engineOptions,
    },
    notes: `Examples:
  longhaul run models/recall-llama --prompt "session travel . user : oslo color is"
  longhaul run Qwen/Qwen3-0.6B --chat --prompt "Name three rivers." --max-tokens 60`,
    load: () => import("./run.js"),
  },
  {
    name: "chat",
    summary: "Talk to a model; shows after each answer what the conversation holds in memory",
    positionals: [MODEL],
    options: {
      ...systemOption,
      ...historyOption,
      restore: {
        type: "string",
        value: "FILE",
        help: "go on with a conversation that /save wrote, in place of all options of history and memory",
      },
      ...helpOption,
      ...memoryOptions,
      ...samplingOptions,
      ...engineOptions,
    },
    notes: `In the chat: /help, /memory, /save FILE, /reset, /quit. Ctrl-C stops an answer; at the prompt it leaves.
Lines from a pipe are taken as one message each.

Example:
  longhaul chat Qwen/Qwen3-0.6B --policy snapkv --budget 512`,
    load: () => import("./chat.js"),
  },
  {
    name: "ask",
    summary: "Take in a long history, then answer questions about it",
    positionals: [MODEL],
    options: {
      ...historyOption,
      question: {
        type: "string",
        short: "q",
        multiple: true,
        value: "TEXT",
        help: "may be given several times; each is asked of the same cache, unaware of the others",
      },
      ...systemOption,
      ...jsonOption,
      ...helpOption,
      ...memoryOptions,
      ...samplingOptions,
      ...engineOptions,
    },
    notes: `Example:
  longhaul ask models/recall-llama --history dialogue.txt --policy keydiff --budget 256 \\
    --question "oslo color ?" --question "tulip price ?"`,
    load: () => import("./ask.js"),
  },
  {
    name: "serve",
    summary: "Serve a model over OpenAI's HTTP protocol",
    positionals: [MODEL],
    options: {
      port: { type: "string", short: "p", value: "N", help: "default 8080; 0 takes a free one" },
      host: { type: "string", value: "ADDRESS", help: "where to listen; default 127.0.0.1, this machine only" },
      name: {
        type: "string",
        value: "NAME",
        help: "the model's name in requests; default that of its directory",
      },
      "api-key": {
        type: "string",
        multiple: true,
        value: "KEY",
        help: "requests have to bring one of the keys given; LONGHAUL_API_KEY holds one, or several with commas",
      },
      origin: {
        type: "string",
        multiple: true,
        value: "ORIGIN",
        help: "a page of this origin may call from a browser; * is any",
      },
      pooling: { type: "string", value: "HOW", help: "of embeddings: mean or last; default mean" },
      "max-running": { type: "string", value: "N", help: "requests that run at a time; default 64" },
      "max-waiting": {
        type: "string",
        value: "N",
        help: "requests that may wait; those beyond are told to come again; default 256",
      },
      "max-conversations": {
        type: "string",
        value: "N",
        help: "conversations kept for their next request; default 256",
      },
      ...helpOption,
      ...memoryOptions,
      ...engineOptions,
    },
    notes: `Prints the address on stdout when it is ready. SIGTERM or Ctrl-C lets answers under way end.

Example:
  longhaul serve Qwen/Qwen3-0.6B --policy keydiff --budget 1024
  curl http://127.0.0.1:8080/v1/chat/completions -H "content-type: application/json" \\
    -d '{"model": "Qwen3-0.6B", "messages": [{"role": "user", "content": "Hello"}], "stream": true}'`,
    load: () => import("./serve.js"),
  },
  {
    name: "profile",
    summary: "Measure how much each layer depends on distant tokens, for --layers profiled",
    positionals: [MODEL],
    options: {
      text: {
        type: "string",
        short: "t",
        multiple: true,
        value: "FILE",
        help: "what to measure on, in any of the formats of ask --history; may be given several times",
      },
      output: {
        type: "string",
        short: "o",
        value: "FILE",
        help: "where to write; default longhaul-profile.json beside the model, where --layers profiled looks",
      },
      "max-tokens": {
        type: "string",
        value: "N",
        help: "tokens of each text that are read; default 16384, at most the model's positions",
      },
      block: {
        type: "string",
        value: "TOKENS",
        help: "tokens of one pass; default a quarter of the model's positions, at most 4096",
      },
      window: {
        type: "string",
        value: "N",
        help: "last tokens of the block before its own that a token sees; default half a block, at most 2048",
      },
      sinks: {
        type: "string",
        value: "N",
        help: "first tokens that every token sees; default a 32nd of a block, at most 128",
      },
      ...jsonOption,
      ...helpOption,
      ...engineOptions,
    },
    notes: `Example:
  longhaul profile models/recall-llama --text examples/demo/history.txt --block 512
  longhaul ask models/recall-llama --history examples/demo/history.txt --policy keydiff --budget 128 \\
    --layers profiled --question "coco sound ?"`,
    load: () => import("./profile.js"),
  },
  {
    name: "plan",
    summary: "Plan which devices share which sequences of a step, by what it costs there",
    positionals: [
      {
        name: "FILE",
        help: "lengths in tokens, one a line; or JSON lines with a number, token ids or a text each",
      },
    ],
    options: {
      devices: { type: "string", value: "N", help: "devices of the cluster; every one is used" },
      costs: {
        type: "string",
        value: "FILE|NAME",
        help: "what a step costs: a file, or FlexSP's constants of gpt-7b (default), gpt-13b or gpt-30b on A100 40 GB",
      },
      field: {
        type: "string",
        value: "NAME",
        help: "of JSON lines; default the first of tokens, num_tokens, length, input_ids, text",
      },
      "characters-per-token": { type: "string", value: "X", help: "of a field that is a text; default 4" },
      "min-degree": {
        type: "string",
        value: "N",
        help: "devices of the smallest groups, a power of two; default 1",
      },
      "max-degree": {
        type: "string",
        value: "N",
        help: "devices of the largest groups; default as many as there are",
      },
      attention: {
        type: "string",
        value: "A,B",
        help: "kinds that groups may use: ulysses, ring, hybrid, all-gather; default all",
      },
      "no-certificate": { type: "boolean", help: "leave out the proof of how good the plan is" },
      polish: { type: "boolean", help: "look for a better plan for --seconds a micro-batch" },
      method: {
        type: "string",
        value: "NAME",
        help: "search (default), or flexsp: FlexSP's own integer program, for comparison",
      },
      seconds: { type: "string", value: "X", help: "time limit of --polish and --method flexsp; default 5" },
      html: { type: "string", value: "FILE", help: "write the plan as a page too" },
      ...jsonOption,
      ...helpOption,
    },
    notes: `Example:
  longhaul plan lengths.txt --devices 64 --html plan.html`,
    load: () => import("./plan.js"),
  },
];
