import { requireTokenIds } from "../conversation.js";
import { Dialogue } from "../dialogue.js";
import {
  type Embed,
  EPISODIC_POLICIES,
  type EpisodeSettings,
  type EpisodicPolicy,
  unionOf,
} from "../episodes/options.js";
import { type EpisodesState, restoreSettings } from "../episodes/state.js";
import { type EpisodeContext, EpisodeStreams } from "../episodes/streams.js";
import { invalidOption, LonghaulError, requireOneOf } from "../errors.js";
import { POLICIES, type Policy } from "../memory.js";
import type { NativeModel, NativePolicy } from "../native.js";
import { Sequence } from "../sequence.js";
import { SingleStream, type Streams } from "../streams.js";
import type { TaskRunner } from "../tasks.js";
import type { ChatTemplate } from "../text/chat-template.js";
import type { Tokenizer } from "../text/tokenizer.js";
import { corruptSnapshot } from "./format.js";
import { SnapshotReader } from "./reader.js";
import { readState, type SequenceState, type SnapshotState } from "./state.js";

export interface RestoreOptions {
  readonly signal?: AbortSignal;
  /** The function that was `memory.embed`: a file cannot hold it. Required where there was one. */
  readonly embed?: Embed;
  /** The function that was `memory.windows.split`. Required where there was one and no history yet. */
  readonly split?: (text: string) => readonly string[];
}

/** What restoring needs of an engine. */
export interface RestoreContext {
  readonly runner: TaskRunner;
  readonly tokenizer: Tokenizer;
  readonly template: ChatTemplate;
  readonly model: NativeModel;
  readonly fingerprint: () => Promise<string>;
  readonly episodes: (name: EpisodicPolicy, settings: EpisodeSettings, policy: NativePolicy) => EpisodeContext;
}

/** Streams, and what a conversation has to know of them. */
export interface OpenStreams {
  readonly streams: Streams;
  readonly policy: Policy;
  readonly tail: number;
}

/** The whole file is checked before anything is made of it; when that or what follows fails, nothing stays. */
export async function restoreStreams(
  path: string,
  options: RestoreOptions,
  context: RestoreContext,
  signal: AbortSignal,
): Promise<OpenStreams> {
  const reader = await SnapshotReader.open(path, signal);
  try {
    const state = checked(path, () => readState(reader.json));
    await requireModel(path, state, context);
    const build = state.streams.kind === "single" ? single(path, state) : episodic(path, state, options);
    requireSections(reader, state.sequences);
    return await build(context, reader, signal);
  } finally {
    await reader.close();
  }
}

/** Makes streams of the sections that a reader is at; leaves nothing when it fails. */
type Build = (context: RestoreContext, reader: SnapshotReader, signal: AbortSignal) => Promise<OpenStreams>;

function single(path: string, { streams, sequences }: SnapshotState): Build {
  const [image] = sequences;
  if (image === undefined || sequences.length > 1) throw corruptSnapshot(path, "it has not one sequence");
  const policy = checked(path, () => requireOneOf("policy", image.policy.policy as Policy, POLICIES));
  return async ({ runner, tokenizer, template, model }, reader, signal) => {
    const sequence = await (await sectionsOf(reader, image))(runner, signal);
    const dialogue = Dialogue.restore(tokenizer, template, streams.dialogue, model.maxPositions);
    const stream = { sequence, dialogue };
    const { prompt, tail } = image.policy;
    return { streams: new SingleStream(stream, policy, model.kvHeads, prompt.length), policy, tail };
  };
}

function episodic(path: string, { streams, sequences }: SnapshotState, options: RestoreOptions): Build {
  const state = streams as EpisodesState;
  if (sequences.length !== (state.built?.dialogues.length ?? 0)) {
    throw corruptSnapshot(path, "it has not one sequence an episode");
  }
  const { settings: saved, built } = state;
  const { embed } = options;
  requireFunction(path, "embed", saved.embed === "function", embed);
  // What has its windows is not cut into any again.
  const split = built === null ? options.split : undefined;
  if (built === null) requireFunction(path, "split", saved.split, split);
  const policy = checked(path, () => requireOneOf("policy", state.policy.policy, EPISODIC_POLICIES));
  const settings = checked(path, () => {
    const restored = restoreSettings(saved, policy, embed, split);
    unionOf(policy, restored, state.policy.budgets);
    return restored;
  });
  return async ({ runner, episodes, model }, reader, signal) => {
    const { opening = [], transcript } = built?.growth ?? {};
    const ids = [...opening, ...(transcript?.passages ?? []).flatMap((passage) => [...passage.ids])];
    checked(path, () => requireTokenIds("the transcript", ids, model));
    const context = episodes(policy, settings, state.policy);
    const caches = context.caches();
    try {
      for (const image of sequences) {
        const restored = await sectionsOf(reader, image);
        await caches.admit(() => restored(runner, signal), signal);
      }
      const streams = EpisodeStreams.restore(context, state, caches);
      return { streams, policy, tail: state.policy.tail };
    } catch (error) {
      await caches.release();
      throw error;
    }
  };
}

/** Refuses a function that is missing, and one where the engine's own way was saved. */
function requireFunction(path: string, option: "embed" | "split", wanted: boolean, given: unknown): void {
  if (wanted ? typeof given === "function" : given === undefined) return;
  const expected = wanted
    ? `the function that the conversation had: ${path} cannot hold it`
    : `left out: the conversation in ${path} had none`;
  throw invalidOption(option, expected, given);
}

async function requireModel(path: string, { model }: SnapshotState, context: RestoreContext): Promise<void> {
  const fingerprint = await context.fingerprint();
  if (model.fingerprint === fingerprint) return;
  const describe = (architecture: string, print: string) => `${architecture} ${print.slice(0, 12)}`;
  throw new LonghaulError(
    "ERR_INVALID_ARGUMENT",
    `${path}: it was saved with another model (${describe(model.architecture, model.fingerprint)}) than this engine's ` +
      `(${describe(context.model.architecture, fingerprint)}); load the model that it was saved with`,
  );
}

/** All sections are there, and nothing else. */
function requireSections(reader: SnapshotReader, sequences: readonly SequenceState[]): void {
  let bytes = 0;
  for (const image of sequences)
    bytes += rowsOf(image) * (4 + 2 * image.headDim * (image.dtype === "f32" ? 4 : 2));
  if (bytes === reader.left) return;
  throw corruptSnapshot(reader.path, `its sections have ${reader.left} bytes, its rows take ${bytes}`);
}

/** What makes the sequence of an image. It may be called again where there was no room: rows are read after that. */
async function sectionsOf(
  reader: SnapshotReader,
  image: SequenceState,
): Promise<(runner: TaskRunner, signal: AbortSignal) => Promise<Sequence>> {
  const positions = await reader.readIntegers(rowsOf(image));
  const read = (bytes: number) => reader.read(bytes);
  return async (runner, signal) => {
    try {
      return await Sequence.restore(runner, { ...image, positions }, read, signal);
    } catch (error) {
      throw blamed(reader.path, error);
    }
  };
}

const rowsOf = ({ lengths }: SequenceState): number => lengths.reduce((sum, length) => sum + length, 0);

function checked<T>(path: string, check: () => T): T {
  try {
    return check();
  } catch (error) {
    throw blamed(path, error);
  }
}

/** What is wrong with a value is wrong with the file that it is from. */
function blamed(path: string, error: unknown): unknown {
  if (!(error instanceof LonghaulError)) return error;
  const ofValue = error.code === "ERR_INVALID_ARGUMENT" || error.code === "ERR_CORRUPT_FILE";
  return ofValue && !error.message.startsWith(path) ? corruptSnapshot(path, error.message, error) : error;
}
