// Which memories are compared: policies of the engine, with options of their own.
import { POLICIES } from "longhaul";
import { UsageError } from "./usage.mjs";

/** What may stand behind a policy's name; a name that the engine does not know would change nothing and say nothing. */
const OPTIONS = [
  "block",
  "tail",
  "level",
  "sinks",
  "window",
  "kernel",
  "layers",
  "episodes",
  "representatives",
  "instruction",
  "match",
  "builder",
  "union",
  "promptTokens",
  "resident",
  "recluster",
  "newEpisodeBelow",
  "positions",
  "clustering",
  "embed",
];

function readValue(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/**
 * "epicache:episodes=8:match=dot" is policy epicache with these options of `memory`; a value is JSON, or else text.
 * @returns {{ name: string, policy: string, options: Record<string, unknown> }}
 */
function readPolicy(text) {
  const [policy, ...settings] = text.split(/:(?=\w+=)/);
  if (!POLICIES.includes(policy))
    throw new UsageError(`--policies knows ${POLICIES.join(", ")}, not "${policy}"`);
  const options = Object.fromEntries(
    settings.map((setting) => {
      const [, option, value] = /^(\w+)=(.+)$/.exec(setting) ?? [];
      if (option === undefined) throw new UsageError(`--policies: "${setting}" must be OPTION=VALUE`);
      if (!OPTIONS.includes(option))
        throw new UsageError(`--policies: "${option}" is none of ${OPTIONS.join(", ")}`);
      return [option, readValue(value)];
    }),
  );
  return { name: [policy, ...settings].join(" "), policy, options };
}

/** Policies of a list; JSON values of options may hold commas. */
export function readPolicies(text) {
  const read = text.split(/,(?=[a-z][\w-]*(?:[:,]|$))/).map(readPolicy);
  const twice = read.find(({ name }, index) => read.findIndex((other) => other.name === name) < index);
  if (twice !== undefined) throw new UsageError(`--policies names "${twice.name}" twice`);
  return read;
}

/** Every policy as it comes. */
export const allPolicies = () => POLICIES.map((policy) => readPolicy(policy));

const withEpisodes = ({ memory }, embed) => ({ ...memory, ...(embed === undefined ? {} : { embed }) });

/** What a policy takes from the dialogue that it is to remember. */
const FROM_DIALOGUE = {
  "patched-prompt": ({ prompt }) => ({ prompt }),
  epicache: withEpisodes,
  episodic: withEpisodes,
};

/**
 * `memory` of a conversation about a dialogue.
 * @param {{ policy: string, options: object }} chosen
 * @param {{ memory: object, prompt: string }} dialogue
 * @param {{ budget?: number, block: number, tail: number, embed?: (texts: readonly string[]) => unknown }} common
 */
export function memoryOf({ policy, options }, dialogue, { budget, block, tail, embed }) {
  const own = FROM_DIALOGUE[policy]?.(dialogue, embed) ?? {};
  return { policy, block, tail, ...(policy === "full" ? {} : { budget }), ...own, ...options };
}

/** Tokens of a block that go through the model once more behind it. */
const REPEATED = {
  "snapkv-refed": ({ window = 32 }, tokens) => Math.min(window, tokens),
  kvzip: (_memory, tokens) => tokens,
};

/**
 * Tokens that went through the model until a history was remembered.
 * @param {object} memory as `memoryOf` gives it
 * @param {import("longhaul").ConversationMemory} held after the history
 */
export function forwardedTokens(memory, held) {
  if (held.episodes !== undefined) return held.episodes.forwardedTokens;
  const { tokensSeen, promptTokens } = held;
  const again = REPEATED[memory.policy] ?? (() => 0);
  let forwarded = tokensSeen;
  for (let begin = 0; begin < tokensSeen; begin += memory.block)
    forwarded += promptTokens + again(memory, Math.min(memory.block, tokensSeen - begin));
  return forwarded;
}
