import type { StreamDecoder } from "../text/tokenizer.js";
import { similarities } from "./clusters.js";
import type { History } from "./history.js";
import { type HistoryPlan, type PlanContext, vectorsOf } from "./plan.js";
import { argMax, dot, rowOf, toUnitRows } from "./vectors.js";

/** What comes after the history belongs to the episode that it was said in. */
const NO_END = 2 ** 31 - 1;

/**
 * Positions of each episode's own tokens: begin, end, begin, end, ..., ascending and apart. An utterance belongs to the
 * episode that a question of the same words would go to, which need not be its window's: a window of four utterances may
 * be about two things. All that comes behind the history belongs to every episode.
 *
 * @param ids token ids of the whole history, the first at position 0
 */
export async function ownPositions(
  history: History,
  ids: readonly number[],
  plan: HistoryPlan,
  context: Pick<PlanContext, "settings" | "embed" | "tokenizer">,
): Promise<number[][]> {
  const texts = history.utterances.map(({ text }) => text);
  const episodes = await episodesOf(texts, plan, context);
  const ends = tokenEnds(texts, ids, context.tokenizer.streamDecoder());
  return plan.episodes.map((_, wanted) => {
    const spans: number[] = [];
    const add = (begin: number, end: number) => {
      if (begin === end) return;
      if (spans.at(-1) === begin) spans.pop();
      else spans.push(begin);
      spans.push(end);
    };
    for (const [index, episode] of episodes.entries()) {
      if (episode === wanted) add(ends[index - 1] ?? 0, ends[index] as number);
    }
    add(ids.length, NO_END);
    return spans;
  });
}

/** One that tells nothing belongs where the one before it does. */
async function episodesOf(
  texts: readonly string[],
  { centroids }: HistoryPlan,
  { settings, embed }: Pick<PlanContext, "settings" | "embed">,
): Promise<number[]> {
  const rows = toUnitRows("memory.embed(utterances)", await vectorsOf(texts, embed));
  let episode = 0;
  return texts.map((_, index) => {
    const row = rowOf(rows, index);
    if (dot(row, row) > 0) episode = argMax(similarities(row, centroids, settings.match));
    return episode;
  });
}

/**
 * How many tokens there are up to the end of each text, when the tokens say the texts one after the other with something
 * between them. That belongs to the text behind it, or to the last. A text that is not there word for word, as where a
 * template changes it, gets its share of what lies between those around it.
 */
export function tokenEnds(texts: readonly string[], ids: readonly number[], decoder: StreamDecoder): number[] {
  let said = "";
  const characters = ids.map((id) => {
    said += decoder.push(id);
    return said.length;
  });
  said += decoder.flush();

  const ends: number[] = [];
  let left = texts.reduce((sum, { length }) => sum + length, 0);
  let from = 0;
  for (const [index, text] of texts.entries()) {
    const at = said.indexOf(text, from);
    // One so far behind that the rest has no room is a repetition.
    if (at >= 0 && at + left <= said.length) {
      share(texts, ends, index, from, at);
      from = at + text.length;
      ends[index] = from;
    }
    left -= text.length;
  }
  share(texts, ends, texts.length, from, said.length);

  let token = 0;
  return ends.map((end, index) => {
    if (index === texts.length - 1) return ids.length;
    while (token < ids.length && (characters[token] as number) < end) token += 1;
    return Math.min(token + 1, ids.length);
  });
}

/** Divides the characters [begin, end) among the texts in front of `index` that have no end yet, by their lengths. */
function share(texts: readonly string[], ends: number[], index: number, begin: number, end: number): void {
  const waiting = texts.slice(ends.length, index);
  const total = waiting.reduce((sum, { length }) => sum + length, 0);
  let before = 0;
  for (const { length } of waiting) {
    before += length;
    ends.push(begin + Math.round(((end - begin) * before) / Math.max(1, total)));
  }
}
