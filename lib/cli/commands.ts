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
];
