import { createRequire } from "node:module";
import { type ErrorCode, LonghaulError } from "./errors.js";

// The only file of lib/ that knows the addon. These are the shapes of src/, taken as they are: values are checked
// before they come here.

/** What the engine's thread tells of a task. "done" and "failed" are the last event of one. */
export interface NativeEvent {
  readonly task: number;
  readonly kind: "progress" | "tokens" | "done" | "failed";
  readonly done: number;
  readonly total: number;
  readonly tokens?: Int32Array;
  readonly values?: Float32Array;
  readonly finish: "none" | "stop" | "length" | "cancelled";
  readonly sequence: number;
  /** Of loadAdapter, with its bytes on the device in `done`. */
  readonly adapter: number;
  /** Of exportSequence. */
  readonly image?: NativeSequenceImage;
  /** Of exportRows: keys, then values of one head. */
  readonly bytes?: Uint8Array;
  /** Of ingestShared: bytes of its working cache, set aside and held at most. */
  readonly reserved: number;
  readonly peak: number;
  readonly code?: ErrorCode;
  readonly message?: string;
}

export interface NativeEngineOptions {
  readonly directory: string;
  readonly device: string;
  readonly threads: number;
  readonly kvBytes: number;
  /** Answers that get their next token in one pass. */
  readonly maxBatch: number;
}

export interface NativePolicy {
  readonly policy: string;
  readonly level: string;
  readonly budgets: Int32Array;
  readonly block: number;
  readonly tail: number;
  readonly sinks: number;
  readonly window: number;
  readonly kernel: number;
  readonly prompt: Int32Array;
  /** Reserved for the prompt, where it is shorter. */
  readonly promptRows: number;
  /** Positions of an episode's own tokens: begin, end, begin, end, ... */
  readonly own: Int32Array;
  readonly promptAtLastPosition: boolean;
  readonly positions: "absolute" | "packed";
}

/** What packing has done to a sequence's positions. */
export interface NativePacking {
  readonly times: number;
  /** The most that any key was rotated. */
  readonly rotations: number;
  /** Rows at positions below were packed before. */
  readonly settled: number;
}

/** All of a sequence but its keys and values. */
export interface NativeSequenceImage {
  readonly layers: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly dtype: "f32" | "bf16" | "f16";
  readonly policy: NativePolicy;
  readonly tokensSeen: number;
  readonly nextPosition: number;
  readonly packing: NativePacking;
  readonly tailRows: number;
  /** The token drawn last that has not run yet; -1: none. */
  readonly pending: number;
  /** The newest tokens, for policies that feed them again. */
  readonly recent: Int32Array;
  readonly peakPages: number;
  /** [layers * kvHeads] rows. */
  readonly lengths: Int32Array;
  /** [sum of lengths], head after head. */
  readonly positions: Int32Array;
}

export interface NativeGenerateOptions {
  readonly maxTokens: number;
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly repetitionPenalty: number;
  readonly seed: number;
  readonly stopTokens: Int32Array;
  readonly mayEvict: boolean;
  readonly confirm: boolean;
}

export interface NativeProfileOptions {
  readonly sinks: number;
  readonly window: number;
  readonly block: number;
}

/** Bytes. */
export interface NativeEngineMemory {
  readonly weights: number;
  readonly workspace: number;
  readonly tables: number;
  readonly pool: number;
  readonly reserved: number;
  readonly used: number;
  readonly peak: number;
}

/** Bytes, but for tokens, positions and rows [layers * kvHeads]. */
export interface NativeSequenceMemory {
  readonly tokensSeen: number;
  readonly nextPosition: number;
  readonly packing: NativePacking;
  readonly tailRows: number;
  readonly reserved: number;
  readonly used: number;
  readonly peak: number;
  readonly tables: number;
  readonly rows: Int32Array;
}

export interface NativeConfig {
  readonly architecture: string;
  readonly vocabularySize: number;
  readonly hiddenSize: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly maxPositions: number;
}

export interface NativeModel extends NativeConfig {
  readonly dtype: "f32" | "bf16" | "f16";
  /** "cpu", "cuda:0". */
  readonly device: string;
  readonly deviceDescription: string;
  /** Why device "auto" is no GPU; else empty. */
  readonly deviceNote: string;
}

/** The methods that return a number start a task and return its id. */
export interface NativeEngine {
  /** `adapter` 0: the model alone. */
  createSequence(policy: NativePolicy, adapter: number): number;
  releaseSequence(sequence: number): number;
  loadAdapter(directory: string): number;
  /** Sequences that use it keep it. */
  releaseAdapter(adapter: number): number;
  /** `second` has seen the same first tokens as `first`. */
  uniteSequences(first: number, second: number, sharedTokens: number): number;
  ingest(sequence: number, tokens: Int32Array, intoTail: boolean): number;
  /** Sequences with blocks of one size. */
  ingestTogether(sequences: readonly number[], tokens: Int32Array): number;
  /** Empty sequences that differ in their prompt; nothing is in them until it is done. `budgets`: [layers] rows. */
  ingestShared(sequences: readonly number[], tokens: Int32Array, budgets: Int32Array): number;
  generate(sequence: number, tokens: Int32Array, options: NativeGenerateOptions): number;
  truncate(sequence: number, tokens: number): number;
  exportSequence(sequence: number): number;
  exportRows(sequence: number, layer: number, head: number): number;
  /** Refuses all work until importRows has brought every head that has rows. */
  importSequence(image: NativeSequenceImage): number;
  importRows(sequence: number, layer: number, head: number, bytes: Uint8Array): number;
  score(tokens: Int32Array, logits: boolean): number;
  embed(tokens: Int32Array, pooling: "mean" | "last"): number;
  profile(tokens: Int32Array, options: NativeProfileOptions): number;
  cancel(task: number): void;
  confirm(task: number, tokens: number): void;
  memory(): NativeEngineMemory;
  sequenceMemory(sequence: number): NativeSequenceMemory;
  /** After task 0 is done. */
  model(): NativeModel;
  dispose(): Promise<void>;
}

export interface NativeDevice {
  readonly name: string;
  readonly available: boolean;
  readonly description: string;
}

export type KernelInputs = Readonly<Record<string, ArrayBufferView | number | string | boolean | undefined>>;
export type KernelOutputs = Record<string, Float32Array & Int32Array>;

export interface NativeAddon {
  /** Task 0 loads the model. */
  readonly NativeEngine: new (
    options: NativeEngineOptions,
    onEvents: (events: NativeEvent[]) => void,
  ) => NativeEngine;
  runKernel(op: string, device: string, inputs: KernelInputs): Promise<KernelOutputs>;
  readConfig(directory: string): NativeConfig;
  devices(): NativeDevice[];
}

let addon: NativeAddon | undefined;

/** The addon, loaded at first use, so that a program can say what is wrong when there is none for its machine. */
export function nativeAddon(): NativeAddon {
  if (addon !== undefined) return addon;
  try {
    addon = createRequire(import.meta.url)("../binding.cjs") as NativeAddon;
    return addon;
  } catch (error) {
    const reason = error instanceof Error ? error.message.split("\n")[0] : String(error);
    throw new LonghaulError(
      "ERR_UNSUPPORTED",
      `the native addon cannot be loaded on ${process.platform}-${process.arch} (${reason}); ` +
        "build it from source: npm install cmake-js node-addon-api, then npx node-gyp-build in node_modules/longhaul",
      { cause: error },
    );
  }
}

/** Errors of the addon carry a code; everything else passes as it is. */
export function fromNative(error: unknown): unknown {
  if (!(error instanceof Error) || error instanceof LonghaulError) return error;
  const { code } = error as NodeJS.ErrnoException;
  return code?.startsWith("ERR_") ? new LonghaulError(code as ErrorCode, error.message) : error;
}

/** Calls into the addon; its errors come out as LonghaulErrors. */
export function callNative<T>(call: (addon: NativeAddon) => T): T {
  const loaded = nativeAddon();
  try {
    return call(loaded);
  } catch (error) {
    throw fromNative(error);
  }
}
