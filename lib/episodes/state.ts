import type { DialogueState } from "../dialogue.js";
import { invalidOption, requireInteger, requireOneOf } from "../errors.js";
import type { NativePolicy } from "../native.js";
import { readDialogue, readPolicy } from "../snapshots/parts.js";
import {
  requireFlag,
  requireInt32,
  requireIntegers,
  requireList,
  requireNumbers,
  requireObject,
  requireText,
} from "../snapshots/values.js";
import type { JsonObject } from "../text/files.js";
import { BUILDERS } from "./builder.js";
import type { GrowthState } from "./growth.js";
import type { Said } from "./history.js";
import type { BuiltHistory } from "./memory.js";
import { type Embed, type EpisodeSettings, type EpisodicPolicy, toEpisodeSettings } from "./options.js";
import type { HistoryPlan } from "./plan.js";
import type { Passage } from "./transcript.js";

/** The settings without functions, which no file can hold: whoever restores brings them again. */
export interface SavedSettings extends Omit<EpisodeSettings, "embed" | "split"> {
  readonly embed: "engine" | "function";
  readonly split: boolean;
}

/** Episodes as a snapshot's JSON holds them; the caches are its sequences. */
export interface EpisodesState {
  readonly kind: "episodes";
  readonly policy: NativePolicy;
  readonly settings: SavedSettings;
  readonly dialogue: DialogueState;
  /** Null before there is a history. */
  readonly built: BuiltState | null;
}

export interface BuiltState extends Omit<BuiltHistory, "requested"> {
  readonly active: number | null;
  readonly peakBytes: number;
  readonly growth: GrowthState;
  /** One an episode, without the log, which is the dialogue's. */
  readonly dialogues: readonly DialogueState[];
}

export function saveSettings({ embed, split, ...settings }: EpisodeSettings): SavedSettings {
  return { ...settings, embed: embed === null ? "engine" : "function", split: split !== undefined };
}

/** Completes and checks saved settings, as if they were given to `engine.conversation`. */
export function restoreSettings(
  saved: SavedSettings,
  policy: EpisodicPolicy,
  embed: Embed | undefined,
  split: EpisodeSettings["split"],
): EpisodeSettings {
  const windows = split === undefined ? saved.windows : { ...saved.windows, split };
  const instruction = saved.instruction ?? false;
  const options = { ...saved, transcript: given(saved.transcript), instruction, windows };
  return toEpisodeSettings({ ...given(options), embed: embed ?? "engine" }, policy);
}

/** Without what is null, which stands for an option that was left out. */
function given<T extends object>(saved: T): { [K in keyof T]?: NonNullable<T[K]> } {
  const entries = Object.entries(saved).filter(([, value]) => value !== null);
  return Object.fromEntries(entries) as { [K in keyof T]?: NonNullable<T[K]> };
}

export function readEpisodesState(name: string, state: JsonObject): EpisodesState {
  return {
    kind: "episodes",
    policy: readPolicy(`${name}.policy`, state.policy),
    settings: readSettings(`${name}.settings`, state.settings),
    dialogue: readDialogue(`${name}.dialogue`, state.dialogue),
    built: state.built === null ? null : readBuilt(`${name}.built`, state.built),
  };
}

/** Only what has no check of its own: the others go through that of the options. */
function readSettings(name: string, value: unknown): SavedSettings {
  const settings = requireObject(name, value);
  requireObject(`${name}.windows`, settings.windows);
  requireObject(`${name}.clustering`, settings.clustering);
  requireObject(`${name}.transcript`, settings.transcript);
  return {
    ...(settings as unknown as SavedSettings),
    embed: requireOneOf(`${name}.embed`, settings.embed, ["engine", "function"]),
    split: requireFlag(`${name}.split`, settings.split),
  };
}

function readBuilt(name: string, value: unknown): BuiltState {
  const built = requireObject(name, value);
  const plan = readPlan(`${name}.plan`, built.plan);
  const dialogues = requireList(`${name}.dialogues`, built.dialogues, readDialogue);
  const episodes = plan.episodes.length;
  if (episodes === 0 || dialogues.length !== episodes || plan.centroids.count !== episodes) {
    throw invalidOption(name, "as many episodes, dialogues and centroids", dialogues);
  }
  const { active } = built;
  const begun = requireIntegers(`${name}.begun`, built.begun);
  if (begun.length !== episodes) throw invalidOption(`${name}.begun`, "one number an episode", begun);
  return {
    builder: requireOneOf(`${name}.builder`, built.builder, BUILDERS),
    plan,
    made: requireInteger(`${name}.made`, built.made, 1, episodes),
    tokens: requireInteger(`${name}.tokens`, built.tokens, 0),
    begun,
    forwardedTokens: requireInteger(`${name}.forwardedTokens`, built.forwardedTokens, 0),
    workingBytes: requireInteger(`${name}.workingBytes`, built.workingBytes, 0),
    active: active === null ? null : requireInteger(`${name}.active`, active, 0, episodes - 1),
    peakBytes: requireInteger(`${name}.peakBytes`, built.peakBytes, 0),
    growth: readGrowth(`${name}.growth`, built.growth),
    dialogues,
  };
}

function readGrowth(name: string, value: unknown): GrowthState {
  const growth = requireObject(name, value);
  const transcript = requireObject(`${name}.transcript`, growth.transcript);
  return {
    transcript: {
      separator: requireOneOf(`${name}.transcript.separator`, transcript.separator, ["\n", " "]),
      named: requireFlag(`${name}.transcript.named`, transcript.named),
      cut: requireFlag(`${name}.transcript.cut`, transcript.cut),
      passages: requireList(`${name}.transcript.passages`, transcript.passages, readPassage),
    },
    opening: requireIntegers(`${name}.opening`, growth.opening),
    units: requireInteger(`${name}.units`, growth.units, 0),
    rebuilds: requireInteger(`${name}.rebuilds`, growth.rebuilds, 0),
  };
}

function readPassage(name: string, value: unknown): Passage {
  const passage = requireObject(name, value);
  return {
    ids: Int32Array.from(requireIntegers(`${name}.ids`, passage.ids)),
    said: passage.said === null ? null : readSaid(`${name}.said`, passage.said),
  };
}

function readSaid(name: string, value: unknown): Said {
  const { speaker, text } = requireObject(name, value);
  return {
    ...(speaker === undefined ? {} : { speaker: requireText(`${name}.speaker`, speaker) }),
    text: requireText(`${name}.text`, text),
  };
}

function readPlan(name: string, value: unknown): HistoryPlan {
  const plan = requireObject(name, value);
  const centroids = requireObject(`${name}.centroids`, plan.centroids);
  const [count, width] = [
    requireInt32(`${name}.centroids.count`, centroids.count, 1),
    requireInt32(`${name}.centroids.width`, centroids.width, 1),
  ];
  const values = requireNumbers(`${name}.centroids.values`, centroids.values);
  if (values.length !== count * width) {
    throw invalidOption(`${name}.centroids.values`, `${count} x ${width} numbers`, values);
  }
  return {
    windows: requireInt32(`${name}.windows`, plan.windows),
    episodes: requireList(`${name}.episodes`, plan.episodes, (at, item) => {
      const episode = requireObject(at, item);
      return {
        windows: requireIntegers(`${at}.windows`, episode.windows),
        representatives: requireIntegers(`${at}.representatives`, episode.representatives),
        prompt: requireIntegers(`${at}.prompt`, episode.prompt),
      };
    }),
    centroids: { count, width, values },
  };
}
