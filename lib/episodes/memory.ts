import { type ConversationMemory, type PositionsMemory, toConversationMemory } from "../memory.js";
import type { NativeSequenceMemory } from "../native.js";
import type { BuilderName } from "./builder.js";
import type { EpisodeCount } from "./clusters.js";
import type { HistoryPlan } from "./plan.js";

/** The episodes of a history and what each of them holds. */
export interface EpisodesMemory {
  /** How the caches were made. */
  readonly builder: BuilderName;
  /** The option `episodes`. `list` is shorter where the history had too few different windows. */
  readonly requested: EpisodeCount;
  /** Windows of the history. */
  readonly windows: number;
  /**
   * Tokens that went through the model to make the caches: the history once an episode (with builder "shared" once),
   * and each episode's prompt behind every block. What was embedded is not among them.
   */
  readonly forwardedTokens: number;
  /**
   * Bytes of the pool that were set aside beside the caches until they were made: the working cache of builder "shared",
   * else 0.
   */
  readonly workingBytes: number;
  /** The episode that the last question went to. */
  readonly active: number | undefined;
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
  readonly bytes: number;
}

/** What was built of a history. */
export interface BuiltHistory {
  readonly builder: BuilderName;
  readonly requested: EpisodeCount;
  readonly plan: HistoryPlan;
  /** Tokens of the history. */
  readonly tokens: number;
  readonly forwardedTokens: number;
  readonly workingBytes: number;
  readonly active: number | undefined;
}

/** Adds the episodes' caches up. `peakBytes` is what they all hold and the most that one of them had on top of that. */
export function toEpisodicMemory(
  { plan, tokens, ...built }: BuiltHistory,
  caches: readonly NativeSequenceMemory[],
  { layers, kvHeads }: { readonly layers: number; readonly kvHeads: number },
): ConversationMemory {
  const each = caches.map((cache) => toConversationMemory("epicache", cache, kvHeads));
  const sum = (of: (memory: ConversationMemory) => number) => each.reduce((all, one) => all + of(one), 0);
  const list = plan.episodes.map((episode, index) => {
    const { tokensSeen, positions, rows, bytes } = each[index] as ConversationMemory;
    const { windows, representatives, prompt } = episode;
    return {
      windows: windows.length,
      representatives: representatives.length,
      promptTokens: prompt.length,
      tokensSeen,
      positions,
      rows,
      bytes,
    };
  });
  return {
    policy: "epicache",
    positions: each.map(({ positions }) => positions).reduce(furtherOn),
    tokensSeen: tokens + sum(({ tokensSeen }) => tokensSeen - tokens),
    rows: Array.from({ length: layers }, (_, layer) =>
      Array.from({ length: kvHeads }, (_, head) => sum(({ rows }) => rows[layer]?.[head] ?? 0)),
    ),
    bytes: sum(({ bytes }) => bytes),
    peakBytes: sum(({ bytes }) => bytes) + Math.max(...each.map(({ bytes, peakBytes }) => peakBytes - bytes)),
    reservedBytes: sum(({ reservedBytes }) => reservedBytes),
    tableBytes: sum(({ tableBytes }) => tableBytes),
    episodes: { ...built, windows: plan.windows, list },
  };
}

function furtherOn(a: PositionsMemory, b: PositionsMemory): PositionsMemory {
  return b.packings > a.packings || (b.packings === a.packings && b.next > a.next) ? b : a;
}
