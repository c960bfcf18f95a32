import type { DialogueState } from "../dialogue.js";
import { type EpisodesState, readEpisodesState } from "../episodes/state.js";
import { invalidOption, requireInteger, requireOneOf, requireString } from "../errors.js";
import type { NativeSequenceImage } from "../native.js";
import { readDialogue, readPacking, readPolicy } from "./parts.js";
import { requireInt32, requireIntegers, requireList, requireObject } from "./values.js";

/** What a snapshot's JSON holds; keys, values and positions are binary sections behind it. */
export interface SnapshotState {
  readonly model: { readonly fingerprint: string; readonly architecture: string };
  readonly streams: StreamsState;
  /** In the order of their sections. */
  readonly sequences: readonly SequenceState[];
}

/** The streams of a conversation, but for their sequences. */
export type StreamsState = SingleState | EpisodesState;

export interface SingleState {
  readonly kind: "single";
  readonly dialogue: DialogueState;
}

/** An image without its positions. */
export type SequenceState = Omit<NativeSequenceImage, "positions">;

/** JSON of what a snapshot says: typed arrays become lists of numbers. */
export function writeState(state: SnapshotState): string {
  return JSON.stringify(state, (_key, value) =>
    ArrayBuffer.isView(value) ? [...(value as Int32Array)] : value,
  );
}

/** Checks every value that anything will be made of. */
export function readState(json: unknown): SnapshotState {
  const state = requireObject("the snapshot", json);
  const model = requireObject("model", state.model);
  return {
    model: {
      fingerprint: requireString("model.fingerprint", model.fingerprint),
      architecture: requireString("model.architecture", model.architecture),
    },
    streams: readStreams(state.streams),
    sequences: requireList("sequences", state.sequences, readSequence),
  };
}

function readStreams(value: unknown): StreamsState {
  const streams = requireObject("streams", value);
  if (requireOneOf("streams.kind", streams.kind, ["single", "episodes"]) === "episodes")
    return readEpisodesState("streams", streams);
  return { kind: "single", dialogue: readDialogue("streams.dialogue", streams.dialogue) };
}

function readSequence(name: string, value: unknown): SequenceState {
  const sequence = requireObject(name, value);
  const [layers, kvHeads] = [
    requireInt32(`${name}.layers`, sequence.layers, 1),
    requireInt32(`${name}.kvHeads`, sequence.kvHeads, 1),
  ];
  const lengths = requireIntegers(`${name}.lengths`, sequence.lengths);
  if (lengths.length !== layers * kvHeads) {
    throw invalidOption(`${name}.lengths`, `one number for each of ${layers * kvHeads} heads`, lengths);
  }
  return {
    layers,
    kvHeads,
    headDim: requireInt32(`${name}.headDim`, sequence.headDim, 1),
    dtype: requireOneOf(`${name}.dtype`, sequence.dtype, ["f32", "bf16", "f16"]),
    policy: readPolicy(`${name}.policy`, sequence.policy),
    tokensSeen: requireInteger(`${name}.tokensSeen`, sequence.tokensSeen, 0),
    nextPosition: requireInt32(`${name}.nextPosition`, sequence.nextPosition),
    packing: readPacking(`${name}.packing`, sequence.packing),
    tailRows: requireInt32(`${name}.tailRows`, sequence.tailRows),
    pending: requireInt32(`${name}.pending`, sequence.pending, -1),
    recent: Int32Array.from(requireIntegers(`${name}.recent`, sequence.recent)),
    peakPages: requireInteger(`${name}.peakPages`, sequence.peakPages, 0),
    lengths: Int32Array.from(lengths),
  };
}
