import { setMaxListeners } from "node:events";
import { type Adapter, adapterId, type LoadAdapterOptions, loadAdapter } from "./adapter.js";
import { AnswerStream } from "./answer.js";
import { Conversation, type Input, requireTokenIds } from "./conversation.js";
import { type DeviceName, requireDevice } from "./device.js";
import { Dialogue } from "./dialogue.js";
import { BatchedBuilder } from "./episodes/batched-builder.js";
import { EpisodeCaches } from "./episodes/caches.js";
import {
  type EpisodeSettings,
  type EpisodicPolicy,
  isEpisodic,
  toEpisodeSettings,
  unionOf,
} from "./episodes/options.js";
import { PerEpisodeBuilder } from "./episodes/per-episode-builder.js";
import { SharedBuilder } from "./episodes/shared-builder.js";
import { type EpisodeContext, EpisodeStreams } from "./episodes/streams.js";
import {
  invalidOption,
  LonghaulError,
  requireInteger,
  requireOneOf,
  requireString,
  throwIfAborted,
} from "./errors.js";
import { type GenerateOptions, type GenerationDefaults, readGenerationDefaults } from "./generation.js";
import { type DownloadProgress, type ResolveOptions, resolveModel } from "./hub.js";
import { instructionTurn } from "./instruction.js";
import { type LayerProfile, type ProfileOptions, profileLayers } from "./layer-profile.js";
import { profilePath, readProfile, writeProfile } from "./layer-profile-file.js";
import {
  defaultKvBytes,
  type EngineMemory,
  type MemoryOptions,
  namedProfile,
  parseBytes,
  requireThreads,
  toEngineMemory,
  toNativePolicy,
} from "./memory.js";
import { callNative, type NativeModel, type NativePolicy } from "./native.js";
import { Sequence } from "./sequence.js";
import { modelFingerprint } from "./snapshots/fingerprint.js";
import { type OpenStreams, type RestoreOptions, restoreStreams } from "./snapshots/restore.js";
import { SingleStream, type Streams } from "./streams.js";
import { disposedError, TaskRunner } from "./tasks.js";
import { ChatTemplate } from "./text/chat-template.js";
import { Tokenizer } from "./text/tokenizer.js";

/** Bytes of the weights that are loaded. */
export interface WeightsProgress {
  readonly phase: "load";
  readonly loaded: number;
  readonly total: number;
}

export interface LoadOptions extends Omit<ResolveOptions, "onProgress"> {
  /** Default "auto". */
  readonly device?: DeviceName;
  /** Threads that compute. Default: one per core that this process may use. */
  readonly threads?: number;
  /**
   * Size of the KV pool, which all conversations share: bytes, or "512MB", "2GiB". Default: a quarter of the available
   * memory, at most 4 GiB, and no more than four conversations of the model's full length could fill.
   */
  readonly kvBytes?: number | string;
  /** Answers that get their next token in one pass; more than that take turns. Default 32. */
  readonly maxBatch?: number;
  readonly onProgress?: (progress: DownloadProgress | WeightsProgress) => void;
}

export interface ConversationOptions {
  /** The system prompt, in the model's chat format. */
  readonly system?: string;
  /** Default: everything is kept. */
  readonly memory?: MemoryOptions;
  /** Everything in the conversation goes through the model with it. Such a conversation cannot be saved. */
  readonly adapter?: Adapter;
  readonly signal?: AbortSignal;
}

export interface ScoreOptions {
  /** Also return the logits. Default false: they take vocabulary x tokens floats. */
  readonly logits?: boolean;
  readonly signal?: AbortSignal;
}

export interface Score {
  readonly tokens: readonly number[];
  /** logProbs[i]: log-probability of tokens[i + 1] after tokens[0..i]; one fewer than tokens. */
  readonly logProbs: Float32Array;
  /** [tokens, vocabulary], row after row. */
  readonly logits?: Float32Array;
  /** exp of the mean of -logProbs; NaN for a single token. */
  readonly perplexity: number;
}

export interface EmbedOptions {
  /** The mean over all tokens, or the last one. Default "mean". */
  readonly pooling?: "mean" | "last";
  /** Scales each vector to length 1. Default true. */
  readonly normalize?: boolean;
  readonly signal?: AbortSignal;
}

export interface EngineInfo {
  readonly directory: string;
  readonly architecture: string;
  readonly device: {
    /** "cpu", "cuda:0". */
    readonly name: string;
    readonly description: string;
    /** Why it is not a GPU, when device "auto" was asked for. */
    readonly reason?: string;
  };
  /** Of the weights. */
  readonly dtype: "f32" | "bf16" | "f16";
  readonly layers: number;
  readonly hiddenSize: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly vocabularySize: number;
  readonly maxPositions: number;
  readonly hasChatTemplate: boolean;
}

interface Parts {
  readonly directory: string;
  readonly runner: TaskRunner;
  readonly model: NativeModel;
  readonly tokenizer: Tokenizer;
  readonly template: ChatTemplate;
  readonly defaults: GenerationDefaults;
}

interface StreamsRequest {
  readonly memory: MemoryOptions;
  readonly policy: ReturnType<typeof toNativePolicy>;
  readonly system: string | undefined;
  readonly signal: AbortSignal | undefined;
  /** As the addon knows it; 0 for none. */
  readonly adapter: number;
}

const DEFAULT_MAX_BATCH = 32;

/** 4 GiB of f32. */
const MAX_SCORE_VALUES = 2 ** 30;

/**
 * A model in memory, the KV pool of its conversations and the thread that computes. Calls on different conversations
 * run at the same time: all answers under way get their next token in one pass, and between two passes there is room for
 * one block of one prompt or history, so that a long one holds nobody up for longer. An engine lives until it is disposed of; it does not keep a process alive that waits for
 * nothing from it.
 */
export class Engine {
  readonly tokenizer: Tokenizer;
  readonly #parts: Parts;
  readonly #closing = new AbortController();
  readonly #conversations = new Set<Conversation>();
  #fingerprint: Promise<string> | undefined;

  /** Loads a model from a directory, or from the hub ("org/name"), whose missing files are downloaded first. */
  static async load(model: string, options: LoadOptions = {}): Promise<Engine> {
    if (typeof options !== "object" || options === null) throw invalidOption("options", "an object", options);
    const { signal, onProgress } = options;
    throwIfAborted(signal);
    const device = requireDevice(options.device);
    const threads = requireThreads(options.threads);
    const maxBatch = requireInteger("maxBatch", options.maxBatch ?? DEFAULT_MAX_BATCH, 1, 4096);
    const kvBytes = options.kvBytes === undefined ? undefined : parseBytes("kvBytes", options.kvBytes);
    const directory = await resolveModel(model, options);
    throwIfAborted(signal);
    const config = callNative((addon) => addon.readConfig(directory));
    let begin = () => {};
    const begun = new Promise<void>((resolve) => {
      begin = resolve;
    });
    const { runner, loaded } = TaskRunner.start(
      { directory, device, threads, kvBytes: kvBytes ?? defaultKvBytes(config), maxBatch },
      {
        signal,
        onEvent: ({ done, total }) => {
          begin();
          onProgress?.({ phase: "load", loaded: done, total });
        },
      },
    );
    try {
      // A tokenizer takes this thread for a while, so options that the engine refuses are heard of first.
      const readText = Promise.race([begun, loaded]).then(() => loadText(directory));
      const [weights, text] = await Promise.allSettled([loaded, readText]);
      throwIfAborted(signal);
      if (weights.status === "rejected") throw weights.reason;
      if (text.status === "rejected") throw text.reason;
      const parts = { directory, runner, model: runner.call((native) => native.model()), ...text.value };
      return new Engine(parts);
    } catch (error) {
      await runner.dispose();
      throw error;
    }
  }

  private constructor(parts: Parts) {
    this.#parts = parts;
    this.tokenizer = parts.tokenizer;
  }

  /**
   * Opens a conversation. A bounded memory is reserved at once, that of policy "epicache" when the history comes:
   * ERR_OUT_OF_MEMORY says what it needs and what is free.
   */
  async conversation(options: ConversationOptions = {}): Promise<Conversation> {
    const { system, memory = {}, adapter: chosen, signal } = options;
    this.#requireAlive(signal);
    const { directory, tokenizer, template, model, runner } = this.#parts;
    const adapter = adapterId(chosen, runner);
    if (system !== undefined) requireString("system", system);
    const profile = namedProfile(memory, directory);
    const encoder = {
      encode: (text: string) => tokenizer.encode(text, { addSpecialTokens: false, continuation: true }),
      instruct: (instruction: string) => instructionTurn(instruction, { tokenizer, template }),
    };
    const profiled = profile === undefined ? undefined : await readProfile(profile, this.info());
    this.#requireAlive(signal);
    const policy = toNativePolicy(memory, model, encoder, profiled);
    const streams = await this.#streams({ memory, policy, system, signal, adapter });
    return this.#open({ streams, policy: policy.policy, tail: policy.tail, adapted: adapter > 0 }, signal);
  }

  /**
   * Reads an adapter from the directory that PEFT (LoRA, rsLoRA, DoRA) or MoE-PEFT (DynMoLE, MixLoRA, MoLA, LoRAMoE) wrote, and
   * brings it to the device between two steps of what runs. A file that is damaged, hostile, or of another model is
   * refused with an error that names the tensor.
   */
  async loadAdapter(directory: string, options: LoadAdapterOptions = {}): Promise<Adapter> {
    if (typeof options !== "object" || options === null) throw invalidOption("options", "an object", options);
    this.#requireAlive(options.signal);
    return loadAdapter(this.#parts.runner, requireString("directory", directory), options.signal);
  }

  /**
   * A conversation as `conversation.save` left it in a file, by an engine with the same model: it goes on as the saved one
   * would. A file that is damaged, or no snapshot of this version, is refused with ERR_CORRUPT_FILE, and nothing stays of
   * it. Its memory is reserved as by `conversation`.
   */
  async restore(path: string, options: RestoreOptions = {}): Promise<Conversation> {
    if (typeof options !== "object" || options === null) throw invalidOption("options", "an object", options);
    const { signal } = options;
    this.#requireAlive(signal);
    requireString("path", path);
    const { runner, tokenizer, template, model } = this.#parts;
    const closing = this.#closing.signal;
    const combined = AbortSignal.any(signal === undefined ? [closing] : [closing, signal]);
    const context = {
      runner,
      tokenizer,
      template,
      model,
      fingerprint: this.#modelFingerprint,
      episodes: this.#episodes.bind(this),
    };
    return this.#open(await restoreStreams(path, options, context, combined), combined);
  }

  /**
   * Answers once, without a conversation that goes on. A text is continued as it is; messages are put in the model's
   * chat format; token ids are continued.
   */
  generate(
    prompt: Input,
    options: GenerateOptions & Pick<ConversationOptions, "memory" | "adapter"> = {},
  ): AnswerStream {
    return new AnswerStream(async (feed) => {
      const { memory, adapter, signal } = options;
      const conversation = await this.conversation({
        ...(memory === undefined ? {} : { memory }),
        ...(adapter === undefined ? {} : { adapter }),
        ...(signal === undefined ? {} : { signal }),
      });
      try {
        return await conversation.answer(prompt, options, feed, true);
      } finally {
        await conversation.dispose();
      }
    });
  }

  /** How probable each token is after those before it. A text is encoded with the tokenizer's special tokens. */
  async score(
    input: string | readonly number[],
    { logits = false, signal }: ScoreOptions = {},
  ): Promise<Score> {
    this.#requireAlive(signal);
    const { runner, model, tokenizer } = this.#parts;
    const ids = typeof input === "string" ? tokenizer.encode(input) : input;
    if (!Array.isArray(ids) || ids.length === 0) throw invalidOption("input", "a text or token ids", input);
    const tokens = requireTokenIds("tokens", ids, model);
    const values = tokens.length * (model.vocabularySize + 1);
    if (logits && values > MAX_SCORE_VALUES) {
      const product = `${tokens.length} tokens x ${model.vocabularySize} logits`;
      throw invalidOption("input", "tokens whose logits fit 4 GiB; score them in parts", product);
    }
    const array = Int32Array.from(tokens);
    const event = await runner.run((native) => native.score(array, logits), { signal });
    throwIfAborted(signal);
    const scored = event.values ?? new Float32Array();
    const logProbs = scored.slice(0, tokens.length - 1);
    const perplexity = Math.exp(-logProbs.reduce((sum, value) => sum + value, 0) / logProbs.length);
    return { tokens, logProbs, perplexity, ...(logits ? { logits: scored.slice(tokens.length - 1) } : {}) };
  }

  /** One vector [hiddenSize] a text: its final hidden states, pooled. */
  async embed(texts: readonly string[], options: EmbedOptions = {}): Promise<Float32Array[]> {
    const { normalize = true, signal } = options;
    this.#requireAlive(signal);
    const pooling = requireOneOf("pooling", options.pooling ?? "mean", ["mean", "last"]);
    if (!Array.isArray(texts)) throw invalidOption("texts", "an array of texts", texts);
    const { runner, tokenizer } = this.#parts;
    // Each text's task listens to it: their number is no leak, and the caller's signal is not ours to set up.
    const combined = signal && AbortSignal.any([signal]);
    if (combined !== undefined) setMaxListeners(0, combined);
    const encoded = texts.map((text, index) => tokenizer.encode(requireString(`texts[${index}]`, text)));
    const events = await Promise.all(
      encoded.map((ids) =>
        runner.run((native) => native.embed(Int32Array.from(ids), pooling), { signal: combined }),
      ),
    );
    throwIfAborted(signal);
    return events.map(({ values = new Float32Array() }) => (normalize ? toUnitLength(values) : values));
  }

  /**
   * Measures on texts (or token ids) how much the keys of each layer depend on distant tokens, for `memory.layers`. Each
   * text goes through the model twice, and all of its keys and values are kept meanwhile. One on which both runs would be
   * the same, for want of length, is refused.
   */
  async profile(
    texts: readonly (string | readonly number[])[],
    options: ProfileOptions = {},
  ): Promise<LayerProfile> {
    if (typeof options !== "object" || options === null) throw invalidOption("options", "an object", options);
    this.#requireAlive(options.signal);
    return profileLayers(this.#parts, texts, options);
  }

  /**
   * Writes a profile of this model where `memory.layers: "profiled"` finds it, or to `path`. Resolves with the path.
   * Whatever happens, the file is the one that was there before or the new one, whole.
   */
  async saveProfile(profile: LayerProfile, path: string = profilePath(this.info())): Promise<string> {
    await writeProfile(requireString("path", path), profile, this.info());
    return path;
  }

  info(): EngineInfo {
    const { directory, model, template } = this.#parts;
    const { device: name, deviceDescription: description, deviceNote: reason, ...shape } = model;
    const device = { name, description, ...(reason === "" ? {} : { reason }) };
    return { directory, device, ...shape, hasChatTemplate: template.available };
  }

  /** Bytes, as of the last step. */
  memory(): EngineMemory {
    this.#requireAlive();
    return toEngineMemory(
      this.#parts.runner.call((native) => native.memory()),
      this.tokenizer.tableBytes,
    );
  }

  /** Rejects everything that is under way with ERR_DISPOSED; resolves when the engine's thread has ended. */
  async dispose(): Promise<void> {
    if (!this.#closing.signal.aborted) this.#closing.abort(disposedError());
    await this.#parts.runner.dispose();
    await Promise.all([...this.#conversations].map((conversation) => conversation.dispose()));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  async #open(
    { streams, policy, tail, adapted = false }: OpenStreams & { readonly adapted?: boolean },
    signal: AbortSignal | undefined,
  ): Promise<Conversation> {
    if (signal?.aborted) {
      await streams.release();
      throw signal.reason;
    }
    const { tokenizer, model, defaults } = this.#parts;
    const conversation = new Conversation({
      streams,
      tokenizer,
      model,
      defaults,
      policy,
      tail,
      adapted,
      fingerprint: this.#modelFingerprint,
      engineClosing: this.#closing.signal,
      onDispose: (disposed) => this.#conversations.delete(disposed),
    });
    this.#conversations.add(conversation);
    return conversation;
  }

  /** Of the model's files, read when it is first asked for. */
  readonly #modelFingerprint = (): Promise<string> => {
    this.#fingerprint ??= modelFingerprint(this.#parts.directory);
    this.#fingerprint.catch(() => {
      this.#fingerprint = undefined;
    });
    return this.#fingerprint;
  };

  async #streams({ memory, policy, system, signal, adapter }: StreamsRequest): Promise<Streams> {
    const { runner, model, tokenizer, template } = this.#parts;
    const { policy: name } = policy;
    if (isEpisodic(name)) {
      if (adapter > 0) {
        // Their caches leave the pool and come back, which an adapter does not do with them yet.
        const advice = `use another policy than "${name}", or no adapter`;
        throw new LonghaulError(
          "ERR_UNSUPPORTED",
          `memory.policy: episodes cannot have an adapter yet; ${advice}`,
        );
      }
      const context = this.#episodes(name, toEpisodeSettings(memory, name), policy);
      return new EpisodeStreams(context, new Dialogue(tokenizer, template, system, context.transcriptTokens));
    }
    const dialogue = new Dialogue(tokenizer, template, system, model.maxPositions);
    const sequence = await Sequence.create(runner, policy, signal, adapter);
    return new SingleStream({ sequence, dialogue }, policy.policy, model.kvHeads, policy.prompt.length);
  }

  #episodes(name: EpisodicPolicy, settings: EpisodeSettings, policy: NativePolicy): EpisodeContext {
    const { runner, tokenizer, template, model } = this.#parts;
    const promptRows = settings.promptTokens ?? 0;
    const scored: NativePolicy = {
      ...policy,
      policy: name === "epicache" ? "patched-prompt" : name,
      promptRows,
    };
    const create = (prompt: readonly number[], own: readonly number[]) =>
      Sequence.create(runner, { ...scored, prompt: Int32Array.from(prompt), own: Int32Array.from(own) });
    const embed = (signal: AbortSignal) =>
      settings.embed ?? ((texts: readonly string[]) => this.embed(texts, { signal }));
    const makeBuilder = {
      "per-episode": () => new PerEpisodeBuilder(create, policy.block),
      batched: () => new BatchedBuilder(create, policy.block),
      shared: () => new SharedBuilder(create, policy.block, unionOf(name, settings, policy.budgets)),
    };
    const builder = makeBuilder[settings.builder]();
    // Episodes that are made anew begin at position 0 again: absolute turns need what is left of the model's positions.
    const share = policy.positions === "packed" ? 1 : 2;
    const transcriptTokens = settings.transcript.maxTokens ?? Math.ceil(model.maxPositions / share);
    if (share === 2 && transcriptTokens > model.maxPositions) {
      const expected = `at most the model's ${model.maxPositions} positions where memory.positions is "absolute"`;
      throw invalidOption("memory.transcript.maxTokens", expected, transcriptTokens);
    }
    const caches = () => new EpisodeCaches(runner, settings.resident ?? Number.POSITIVE_INFINITY);
    return { name, settings, tokenizer, template, model, embed, builder, caches, policy, transcriptTokens };
  }

  #requireAlive(signal?: AbortSignal): void {
    throwIfAborted(this.#closing.signal);
    throwIfAborted(signal);
  }
}

async function loadText(directory: string): Promise<Pick<Parts, "tokenizer" | "template" | "defaults">> {
  const [tokenizer, defaults] = await Promise.all([
    Tokenizer.load(directory),
    readGenerationDefaults(directory),
  ]);
  const warn = (message: string) => process.emitWarning(message, "LonghaulWarning");
  return {
    tokenizer,
    defaults,
    template: await ChatTemplate.load(directory, { named: tokenizer.named, warn }),
  };
}

function toUnitLength(vector: Float32Array): Float32Array {
  const length = Math.hypot(...vector);
  return length > 0 ? vector.map((value) => value / length) : vector;
}
