import type { Input } from "../conversation.js";
import { Dialogue } from "../dialogue.js";
import { LonghaulError } from "../errors.js";
import type { ConversationMemory } from "../memory.js";
import type { NativeModel, NativePolicy } from "../native.js";
import type { Sequence } from "../sequence.js";
import {
  type ChoiceRequest,
  type HistoryRequest,
  ingestInto,
  type RebuildRequest,
  type Stream,
  type Streams,
  type StreamsSnapshot,
} from "../streams.js";
import type { Message } from "../text/chat-template.js";
import type { BuildRequest, EpisodeBuilder } from "./builder.js";
import type { EpisodeCaches } from "./caches.js";
import { Growth } from "./growth.js";
import type { History } from "./history.js";
import { historyOf, openingOf, questionOf } from "./input.js";
import { type BuiltHistory, toEpisodicMemory } from "./memory.js";
import type { Embed, EpisodicPolicy } from "./options.js";
import { ownPositions } from "./own.js";
import {
  type HistoryPlan,
  type Match,
  matchEpisodes,
  type PlanContext,
  planEpisodes,
  withEpisode,
} from "./plan.js";
import { type EpisodesState, saveSettings } from "./state.js";

/** What an episodic conversation needs of its engine. */
export interface EpisodeContext extends Omit<PlanContext, "embed"> {
  /** The user's function, or the engine's own that `signal` aborts. */
  readonly embed: (signal: AbortSignal) => Embed;
  readonly builder: EpisodeBuilder;
  /** For the caches of a history's episodes. */
  readonly caches: () => EpisodeCaches;
  readonly model: NativeModel;
  readonly name: EpisodicPolicy;
  /** Of each episode's cache, but for its prompt and its own tokens. */
  readonly policy: NativePolicy;
  /** The most of its transcript that is kept. */
  readonly transcriptTokens: number;
}

interface Built {
  readonly history: BuiltHistory;
  readonly caches: EpisodeCaches;
  /** What each episode's stream says: the history, and the turns that went there. */
  readonly dialogues: readonly Dialogue[];
}

const NO_POSITIONS = { regime: "absolute", next: 0, packings: 0, rotations: 0 } as const;
const NOTHING_YET = {
  tokensSeen: 0,
  positions: NO_POSITIONS,
  bytes: 0,
  peakBytes: 0,
  reservedBytes: 0,
  hostBytes: 0,
  tableBytes: 0,
  promptTokens: 0,
};

/** Episodes that turns may open, for each one that was made of a history. */
const OPENED_PER_MADE = 1;

/**
 * EpiCache (arXiv 2509.17396): one stream for each episode of a history. All of them saw the whole history, and each
 * kept what its episode's representative windows attend to, or what is unusual in its episode (`episodic`); a question goes to the episode that it is most like, at the
 * positions behind the whole history, and stays in that episode's tail.
 *
 * Beyond the paper, the episodes follow a conversation that grows: a turn like none of them opens one of its own, and when
 * there are twice as many windows, all are made anew of the newest transcript.
 */
export class EpisodeStreams implements Streams {
  readonly #context: EpisodeContext;
  /** What is said in all streams together, as if it were one. */
  readonly #dialogue: Dialogue;
  #built: Built | undefined;
  #growth: Growth | undefined;
  #active: number | undefined;
  /** The most that was held by caches which are gone. */
  #peakBytes = 0;

  /** @param dialogue of an empty stream */
  constructor(context: EpisodeContext, dialogue: Dialogue) {
    this.#context = context;
    this.#dialogue = dialogue;
  }

  /** @param caches one an episode, if there was a history */
  static restore(context: EpisodeContext, state: EpisodesState, caches: EpisodeCaches): EpisodeStreams {
    const { tokenizer, template, settings } = context;
    const dialogue = Dialogue.restore(tokenizer, template, state.dialogue, context.transcriptTokens);
    const streams = new EpisodeStreams(context, dialogue);
    if (state.built === null) return streams;
    const { dialogues, active, peakBytes, growth: saved, ...history } = state.built;
    const growth = new Growth(dialogue, tokenizer, settings, context.transcriptTokens, saved);
    streams.#growth = growth;
    streams.#built = {
      history: { ...history, requested: settings.episodes },
      caches,
      dialogues: dialogues.map((each) => Dialogue.restore(tokenizer, template, each, 0, growth.retelling)),
    };
    streams.#active = active ?? undefined;
    streams.#peakBytes = peakBytes;
    return streams;
  }

  get #policy(): EpisodicPolicy {
    return this.#context.name;
  }

  get messages(): readonly Message[] {
    return this.#dialogue.messages;
  }

  /**
   * Makes the episodes of the first history; when that is aborted or fails, the conversation is as empty as before. What
   * comes later goes to the episode that it is like.
   */
  async ingest(request: HistoryRequest): Promise<number> {
    const { input, write } = request;
    if (this.#built !== undefined) {
      try {
        return await ingestInto(
          await this.choose(input, { ...request, remember: true, single: true }),
          request,
        );
      } finally {
        await this.settled();
      }
    }
    const { settings, tokenizer, transcriptTokens } = this.#context;
    const addition = write(this.#dialogue);
    const opening = openingOf(input, addition.ids, this.#dialogue, tokenizer);
    const said = historyOf(input, settings, tokenizer);
    const made = await this.#make(said, addition.ids, request);
    addition.commit();
    const { separator, utterances } = said;
    const named = utterances.some(({ speaker }) => speaker !== undefined);
    const empty = { separator, named, cut: false, passages: [] };
    const growth = new Growth(this.#dialogue, tokenizer, settings, transcriptTokens, {
      transcript: empty,
      opening,
      units: 0,
      rebuilds: 0,
    });
    growth.transcript.push(addition.ids, utterances);
    this.#growth = growth;
    this.#take(made, addition.ids.length, growth);
    await this.settled();
    return addition.ids.length;
  }

  async choose(input: Input, request: ChoiceRequest): Promise<Stream> {
    const { signal, remember } = request;
    const { settings } = this.#context;
    if (this.#built === undefined) {
      const advice = "call ingest(history) before the first question";
      throw new LonghaulError(
        "ERR_INVALID_ARGUMENT",
        `policy "${this.#policy}" makes its episodes of a history: ${advice}`,
      );
    }
    await this.#growth?.transcript.flush();
    if (remember) await this.recluster(request);
    const built = this.#built;
    const question = questionOf(input, this.#context.tokenizer);
    // The engine has nothing to do while others embed.
    const meanwhile = settings.embed === null ? undefined : built.caches.prepare(signal);
    const [matched, prepared] = await Promise.allSettled([
      matchEpisodes(question, built.history.plan, this.#planContext(signal)),
      meanwhile,
    ]);
    if (matched.status === "rejected") throw matched.reason;
    if (prepared.status === "rejected") throw prepared.reason;
    const match = matched.value;
    const [nearest = 0] = match.order;
    const { made, plan } = built.history;
    const room = plan.episodes.length < (1 + OPENED_PER_MADE) * made;
    const unlike = settings.newEpisodeBelow !== null && match.cosine < settings.newEpisodeBelow;
    const known = match.vector.some((value) => value !== 0);
    const opens = remember && room && unlike && known;
    const episode = opens ? await this.#open(built, question, match, signal) : nearest;
    const dialogue = this.#built.dialogues[episode] as Dialogue;
    const [, second] = match.order;
    if (opens || request.single || second === undefined || settings.topEpisodes === 1) {
      const sequence = await built.caches.acquire(episode, signal);
      this.#active = episode;
      return { sequence, dialogue };
    }
    const pair = await built.caches.acquirePair(episode, second, signal);
    this.#active = episode;
    return this.#united(built, pair, dialogue, signal);
  }

  /**
   * Two episodes as one stream, for one turn. Afterwards the turn goes through the first episode's own cache, which
   * stays one that this episode's prompt has chosen, and the union is given back.
   */
  async #united(
    { history, caches }: Built,
    [first, second]: readonly [Sequence, Sequence],
    dialogue: Dialogue,
    signal: AbortSignal,
  ): Promise<Stream> {
    // What came behind the history is each episode's own.
    const sequence = await first.unite(second, Math.min(...history.begun), signal);
    const finish = async () => {
      try {
        const held = caches.memory().reduce((sum, { resident, used }) => sum + (resident ? used : 0), 0);
        this.#peakBytes = Math.max(this.#peakBytes, held + sequence.memory.peak);
        if (sequence.added.length > 0) await first.append(sequence.added);
      } finally {
        await sequence.release();
      }
    };
    return { sequence, dialogue, finish };
  }

  async settled(): Promise<void> {
    // What it cannot write now it keeps, and the next turn says so before it begins.
    await this.#growth?.transcript.flush().catch(() => {});
  }

  /** Old caches wait on the host until all new ones are made, and come back if they are not. */
  async recluster(request: RebuildRequest): Promise<boolean> {
    const { settings } = this.#context;
    const [built, growth] = [this.#built, this.#growth];
    if (built === undefined || growth === undefined || settings.recluster === "never") return false;
    const { history: said } = growth.transcript;
    // A transcript that holds less than one turn is nothing to make episodes of.
    if (growth.windows < built.history.plan.windows || said.utterances.length === 0) return false;
    const { tokensSeen } = this.memory();
    await built.caches.offload(request.signal);
    const made = await this.#make(said, growth.ids, request);
    this.#peakBytes = this.#peak(built);
    await built.caches.release();
    growth.rebuilt();
    this.#take(made, tokensSeen, growth, built.history.forwardedTokens);
    return true;
  }

  memory(): ConversationMemory {
    const { model } = this.#context;
    if (this.#built === undefined || this.#growth === undefined) {
      const rows = Array.from({ length: model.layers }, () => Array(model.kvHeads).fill(0));
      return { policy: this.#policy, ...NOTHING_YET, rows };
    }
    const { history, caches } = this.#built;
    const account = { active: this.#active, growth: this.#growth, peakBytes: this.#peak(this.#built) };
    return toEpisodicMemory(this.#policy, history, caches.memory(), account, model);
  }

  async snapshot(): Promise<StreamsSnapshot> {
    const { settings, policy } = this.#context;
    const state = {
      kind: "episodes",
      policy,
      settings: saveSettings(settings),
      dialogue: this.#dialogue.state(),
    } as const;
    if (this.#built === undefined || this.#growth === undefined)
      return { state: { ...state, built: null }, sequences: [] };
    const { history, caches, dialogues } = this.#built;
    const { requested: _, ...rest } = history;
    const built = {
      ...rest,
      active: this.#active ?? null,
      peakBytes: this.#peak(this.#built),
      growth: this.#growth.state,
      dialogues: dialogues.map((dialogue) => dialogue.state()),
    };
    return { state: { ...state, built }, sequences: caches.sources };
  }

  async release(): Promise<void> {
    await this.#built?.caches.release();
  }

  /** Plans and fills episodes, all or none. */
  async #make(said: History, ids: readonly number[], { signal, onProgress }: RebuildRequest): Promise<Made> {
    const planning = this.#planContext(signal);
    const plan = await planEpisodes(said, planning, signal);
    const prompts = plan.episodes.map(({ prompt }) => prompt);
    const own = this.#policy === "episodic" ? await ownPositions(said, ids, plan, planning) : [];
    const caches = this.#context.caches();
    try {
      const admit: BuildRequest["admit"] = (create) => caches.admit(create, signal);
      const request = { prompts, own, history: ids, admit, signal, onProgress };
      const built = await this.#context.builder.build(request);
      const { sequences, forwardedTokens, peakBytes, workingBytes } = built;
      await caches.adopt(sequences, signal);
      this.#peakBytes = Math.max(this.#peakBytes, peakBytes);
      return { plan, caches, forwardedTokens, workingBytes, streamTokens: ids.length };
    } catch (error) {
      await caches.release();
      throw error;
    }
  }

  /** Goes on with episodes that were made of all that was said so far, in so many tokens of the conversation. */
  #take(
    { plan, caches, forwardedTokens, workingBytes, streamTokens }: Made,
    tokens: number,
    growth: Growth,
    forwardedBefore = 0,
  ): void {
    const { builder, settings } = this.#context;
    const history = {
      builder: builder.name,
      requested: settings.episodes,
      plan,
      made: plan.episodes.length,
      tokens,
      begun: plan.episodes.map(() => streamTokens),
      forwardedTokens: forwardedBefore + forwardedTokens,
      workingBytes,
    };
    const dialogues = plan.episodes.map(() => this.#dialogue.fork(growth.retelling));
    this.#built = { history, caches, dialogues };
    this.#active = undefined;
  }

  /** A turn's own episode, which begins as the nearest one is. */
  async #open(built: Built, text: string, { order, vector }: Match, signal: AbortSignal): Promise<number> {
    const { history, caches, dialogues } = built;
    const growth = this.#growth as Growth;
    const [nearest = 0] = order;
    const context = this.#planContext(signal);
    const plan = withEpisode(history.plan, text, vector, growth.transcript.history, context);
    await caches.fork(nearest, plan.episodes.at(-1)?.prompt ?? [], signal);
    const { tokensSeen } = caches.memory().at(-1) as { tokensSeen: number };
    const fork = (dialogues[nearest] as Dialogue).fork(growth.retelling);
    this.#built = {
      history: { ...history, plan, begun: [...history.begun, tokensSeen] },
      caches,
      dialogues: [...dialogues, fork],
    };
    return plan.episodes.length - 1;
  }

  #peak({ caches }: Built): number {
    return Math.max(this.#peakBytes, caches.peakBytes);
  }

  #planContext(signal: AbortSignal): PlanContext {
    const { settings, embed, tokenizer, template } = this.#context;
    return { settings, embed: embed(signal), tokenizer, template };
  }
}

/** Episodes, filled. */
interface Made {
  readonly plan: HistoryPlan;
  readonly caches: EpisodeCaches;
  readonly forwardedTokens: number;
  readonly workingBytes: number;
  /** Of each one's stream. */
  readonly streamTokens: number;
}
