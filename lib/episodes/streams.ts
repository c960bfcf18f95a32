import type { Input } from "../conversation.js";
import { Dialogue, isTokenIds, requireMessages } from "../dialogue.js";
import { LonghaulError } from "../errors.js";
import type { ConversationMemory } from "../memory.js";
import type { NativeModel, NativePolicy } from "../native.js";
import type { HistoryRequest, Stream, Streams, StreamsSnapshot } from "../streams.js";
import type { Message } from "../text/chat-template.js";
import type { BuildRequest, EpisodeBuilder } from "./builder.js";
import type { EpisodeCaches } from "./caches.js";
import { type History, historyOfMessages, historyOfText } from "./history.js";
import { type BuiltHistory, toEpisodicMemory } from "./memory.js";
import type { Embed } from "./options.js";
import { matchEpisode, type PlanContext, planEpisodes } from "./plan.js";
import { Retelling } from "./retelling.js";
import { type EpisodesState, saveSettings } from "./state.js";

/** What an episodic conversation needs of its engine. */
export interface EpisodeContext extends Omit<PlanContext, "embed"> {
  /** The user's function, or the engine's own that `signal` aborts. */
  readonly embed: (signal: AbortSignal) => Embed;
  readonly builder: EpisodeBuilder;
  /** For the caches of a history's episodes. */
  readonly caches: () => EpisodeCaches;
  readonly model: NativeModel;
  /** Of each episode's cache, but for its prompt. */
  readonly policy: NativePolicy;
}

interface Built {
  readonly history: Omit<BuiltHistory, "active">;
  readonly caches: EpisodeCaches;
  /** What each episode's stream says: the history, and the turns that went there. */
  readonly dialogues: readonly Dialogue[];
}

const NOTHING_YET = {
  tokensSeen: 0,
  bytes: 0,
  peakBytes: 0,
  reservedBytes: 0,
  hostBytes: 0,
  tableBytes: 0,
};

/**
 * EpiCache (arXiv 2509.17396): one stream for each episode of a history. All of them saw the whole history, and each
 * kept what its episode's representative windows attend to; a question goes to the episode that it is most like, at the
 * positions behind the whole history, and stays in that episode's tail.
 */
export class EpisodeStreams implements Streams {
  readonly #context: EpisodeContext;
  readonly #dialogue: Dialogue;
  #built: Built | undefined;
  #active: number | undefined;
  /** The most that was ever held. */
  #peakBytes = 0;

  /** @param dialogue of an empty stream */
  constructor(context: EpisodeContext, dialogue: Dialogue) {
    this.#context = context;
    this.#dialogue = dialogue;
  }

  /** @param caches one an episode, if there was a history */
  static restore(context: EpisodeContext, state: EpisodesState, caches: EpisodeCaches): EpisodeStreams {
    const { tokenizer, template, settings } = context;
    const dialogue = Dialogue.restore(tokenizer, template, state.dialogue, context.model.maxPositions);
    const retelling = new Retelling(dialogue);
    const streams = new EpisodeStreams(context, dialogue);
    if (state.built === null) return streams;
    const { dialogues, active, peakBytes, ...history } = state.built;
    streams.#built = {
      history: { ...history, requested: settings.episodes },
      caches,
      dialogues: dialogues.map((each) => Dialogue.restore(tokenizer, template, each, 0, retelling)),
    };
    streams.#active = active ?? undefined;
    streams.#peakBytes = peakBytes;
    return streams;
  }

  get messages(): readonly Message[] {
    return this.#dialogue.messages;
  }

  /** When it is aborted or fails, the conversation is as empty as before. */
  async ingest({ input, write, signal, onProgress }: HistoryRequest): Promise<number> {
    if (this.#built !== undefined) {
      const advice = "ingest the whole history at once, or make a new conversation";
      throw new LonghaulError("ERR_UNSUPPORTED", `policy "epicache" has made its episodes already: ${advice}`);
    }
    const { builder, settings } = this.#context;
    const addition = write(this.#dialogue);
    const plan = await planEpisodes(this.#historyOf(input), this.#planContext(signal), signal);
    const prompts = plan.episodes.map(({ prompt }) => prompt);
    const caches = this.#context.caches();
    const forwardedTokens = await this.#build(caches, { prompts, history: addition.ids, signal, onProgress });
    addition.commit();
    const history = {
      builder: builder.name,
      requested: settings.episodes,
      plan,
      tokens: addition.ids.length,
      forwardedTokens,
    };
    const retelling = new Retelling(this.#dialogue);
    const dialogues = prompts.map(() => this.#dialogue.fork(retelling));
    this.#built = { history, caches, dialogues };
    return addition.ids.length;
  }

  async choose(input: Input, signal: AbortSignal): Promise<Stream> {
    const built = this.#built;
    if (built === undefined) {
      const advice = "call ingest(history) before the first question";
      throw new LonghaulError(
        "ERR_INVALID_ARGUMENT",
        `policy "epicache" makes its episodes of a history: ${advice}`,
      );
    }
    const question = this.#questionOf(input);
    // The engine has nothing to do while others embed.
    const meanwhile = this.#context.settings.embed === null ? undefined : built.caches.prepare(signal);
    const [matched, prepared] = await Promise.allSettled([
      matchEpisode(question, built.history.plan, this.#planContext(signal)),
      meanwhile,
    ]);
    if (matched.status === "rejected") throw matched.reason;
    if (prepared.status === "rejected") throw prepared.reason;
    const episode = matched.value;
    this.#active = episode;
    const sequence = await built.caches.acquire(episode, signal);
    return { sequence, dialogue: built.dialogues[episode] as Dialogue };
  }

  memory(): ConversationMemory {
    const { model } = this.#context;
    if (this.#built === undefined) {
      const rows = Array.from({ length: model.layers }, () => Array(model.kvHeads).fill(0));
      return { policy: "epicache", ...NOTHING_YET, rows };
    }
    const { history, caches } = this.#built;
    this.#peakBytes = Math.max(this.#peakBytes, caches.peakBytes);
    return toEpisodicMemory({ ...history, active: this.#active }, caches.memory(), this.#peakBytes, model);
  }

  async snapshot(): Promise<StreamsSnapshot> {
    const { settings, policy } = this.#context;
    const state = {
      kind: "episodes",
      policy,
      settings: saveSettings(settings),
      dialogue: this.#dialogue.state(),
    } as const;
    if (this.#built === undefined) return { state: { ...state, built: null }, sequences: [] };
    const { history, caches, dialogues } = this.#built;
    const { requested: _, ...rest } = history;
    const built = {
      ...rest,
      active: this.#active ?? null,
      peakBytes: this.memory().peakBytes,
      dialogues: dialogues.map((dialogue) => dialogue.state()),
    };
    return { state: { ...state, built }, sequences: caches.sources };
  }

  async release(): Promise<void> {
    await this.#built?.caches.release();
  }

  /** Fills caches, all or none. Resolves with the tokens that went through the model for it. */
  async #build(caches: EpisodeCaches, request: Omit<BuildRequest, "admit">): Promise<number> {
    const { signal } = request;
    try {
      const admit: BuildRequest["admit"] = (create) => caches.admit(create, signal);
      const { sequences, forwardedTokens } = await this.#context.builder.build({ ...request, admit });
      await caches.adopt(sequences, signal);
      return forwardedTokens;
    } catch (error) {
      await caches.release();
      throw error;
    }
  }

  #planContext(signal: AbortSignal): PlanContext {
    const { settings, embed, tokenizer, template } = this.#context;
    return { settings, embed: embed(signal), tokenizer, template };
  }

  #historyOf(input: Input): History {
    const { settings, tokenizer } = this.#context;
    if (typeof input === "string") return historyOfText(input, settings.split);
    if (isTokenIds(input))
      return historyOfText(tokenizer.decode(input, { skipSpecialTokens: true }), settings.split);
    return historyOfMessages(requireMessages("input", input as Message[]));
  }

  /** What a question says, without the turns around it. */
  #questionOf(input: Input): string {
    if (typeof input === "string") return input;
    if (isTokenIds(input)) return this.#context.tokenizer.decode(input, { skipSpecialTokens: true });
    return requireMessages("input", input as Message[]).at(-1)?.content ?? "";
  }
}
