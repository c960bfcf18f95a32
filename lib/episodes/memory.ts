import { type ConversationMemory, type Policy, type PositionsMemory, toConversationMemory } from "../memory.js";
import type { BuilderName } from "./builder.js";
import type { CacheMemory } from "./caches.js";
import type { EpisodeCount } from "./clusters.js";
import type { Growth } from "./growth.js";
import type { HistoryPlan } from "./plan.js";

/** The episodes of a history and what each of them holds. */
export interface EpisodesMemory {
  /** How the caches were made. */
  readonly builder: BuilderName;
  /** The option `episodes`. `list` is shorter where the history had too few different windows. */
  readonly requested: EpisodeCount;
  /** Windows of the conversation that the episodes were made of, and that came since. */
  readonly windows: number;
  readonly windowsSince: number;
  /** How often they were made anew. */
  readonly rebuilds: number;
  /**
   * Tokens that went through the model to make the caches, of all times that they were made: the history once an episode
   * (with builder "shared" once), and each episode's prompt behind every block. What was embedded is not among them.
   */
  readonly forwardedTokens: number;
  /**
   * Bytes of the pool that were set aside beside the caches until they were made: the working cache of builder "shared",
   * else 0.
   */
  readonly workingBytes: number;
  /** The episode that the last question went to; undefined since they were made anew. */
  readonly active: number | undefined;
  /** What is kept for new episodes: token ids (4 bytes each) and the text of what was said. */
  readonly transcript: { readonly tokens: number; readonly maxTokens: number; readonly bytes: number };
  readonly list: readonly EpisodeMemory[];
}

export interface EpisodeMemory {
  /** Windows that belong to it. */
  readonly windows: number;
  /** Windows that its prompt is made of. */
  readonly representatives: number;
  readonly promptTokens: number;
  /** Tokens of the history and of the turns that went here. */
  readonly tokensSeen: number;
  readonly positions: PositionsMemory;
  /** rows[layer][kvHead]. */
  readonly rows: readonly (readonly number[])[];
  /** Whether its cache is where the model computes. */
  readonly resident: boolean;
  /** Of its pages there. */
  readonly bytes: number;
  /** Of its copy in the memory of this process, the only one if it is not resident. */
  readonly hostBytes: number;
}

/** What was built of a history. */
export interface BuiltHistory {
  readonly builder: BuilderName;
  readonly requested: EpisodeCount;
  readonly plan: HistoryPlan;
  /** How many of the plan's episodes were made of the history; turns opened the others. */
  readonly made: number;
  /** Tokens of the conversation when they were made. */
  readonly tokens: number;
  /** begun[episode]: tokens of its stream that other episodes' streams have in common with it. */
  readonly begun: readonly number[];
  readonly forwardedTokens: number;
  readonly workingBytes: number;
}

/** What `toEpisodicMemory` tells besides. */
interface Account {
  readonly active: number | undefined;
  readonly growth: Growth;
  readonly peakBytes: number;
}

/** Adds the episodes' caches up. */
export function toEpisodicMemory(
  policy: Policy,
  { plan, tokens, begun, builder, requested, forwardedTokens, workingBytes }: BuiltHistory,
  caches: readonly CacheMemory[],
  { active, growth, peakBytes }: Account,
  { layers, kvHeads }: { readonly layers: number; readonly kvHeads: number },
): ConversationMemory {
  const each = caches.map((cache, episode) =>
    toConversationMemory(policy, cache, kvHeads, plan.episodes[episode]?.prompt.length ?? 0),
  );
  const sum = (of: (memory: ConversationMemory) => number) => each.reduce((all, one) => all + of(one), 0);
  const { transcript: kept } = growth;
  const list = plan.episodes.map((episode, index) => {
    const { tokensSeen, positions, rows, bytes } = each[index] as ConversationMemory;
    const { resident, hostBytes } = caches[index] as CacheMemory;
    const { windows, representatives, prompt } = episode;
    return {
      windows: windows.length,
      representatives: representatives.length,
      promptTokens: prompt.length,
      tokensSeen,
      positions,
      rows,
      resident,
      bytes,
      hostBytes,
    };
  });
  return {
    policy,
    positions: each.map(({ positions }) => positions).reduce(furtherOn),
    tokensSeen: tokens + each.reduce((all, { tokensSeen }, at) => all + tokensSeen - (begun[at] as number), 0),
    rows: Array.from({ length: layers }, (_, layer) =>
      Array.from({ length: kvHeads }, (_, head) => sum(({ rows }) => rows[layer]?.[head] ?? 0)),
    ),
    bytes: sum(({ bytes }) => bytes),
    peakBytes,
    reservedBytes: sum(({ reservedBytes }) => reservedBytes),
    hostBytes: list.reduce((all, { hostBytes }) => all + hostBytes, growth.transcript.bytes),
    tableBytes: sum(({ tableBytes }) => tableBytes),
    promptTokens: sum(({ promptTokens }) => promptTokens),
    episodes: {
      builder,
      requested,
      windows: plan.windows,
      windowsSince: growth.windows,
      rebuilds: growth.rebuilds,
      forwardedTokens,
      workingBytes,
      active,
      transcript: { tokens: kept.tokens, maxTokens: kept.maxTokens, bytes: kept.bytes },
      list,
    },
  };
}

function furtherOn(a: PositionsMemory, b: PositionsMemory): PositionsMemory {
  return b.packings > a.packings || (b.packings === a.packings && b.next > a.next) ? b : a;
}
