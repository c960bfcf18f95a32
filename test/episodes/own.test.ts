// Which tokens of a history are an episode's own.
import { describe, expect, it } from "vitest";
import type { EpisodeSettings } from "../../lib/episodes/options.js";
import { ownPositions, tokenEnds } from "../../lib/episodes/own.js";
import type { HistoryPlan, PlanContext } from "../../lib/episodes/plan.js";
import type { StreamDecoder } from "../../lib/text/tokenizer.js";

/** Every character is a token. */
const decoder = () => ({ push: (id: number) => String.fromCodePoint(id), flush: () => "" }) as StreamDecoder;
const ids = (text: string) => [...text].map((character) => character.codePointAt(0) as number);
const endsIn = (said: string, texts: string[]) => tokenEnds(texts, ids(said), decoder());

describe("where texts end among tokens", () => {
  it("counts what is between two texts to the second, and what is behind the last to it", () => {
    expect(endsIn("<s>[me] one [you] two [me] three </s>", ["one", "two", "three"])).toEqual([11, 21, 37]);
  });

  it("finds texts in their order when they are alike", () => {
    expect(endsIn("ok ok ok.", ["ok", "ok", "ok."])).toEqual([2, 5, 9]);
  });

  it("divides what lies between two texts among those that are not there word for word", () => {
    expect(endsIn("one ABCDEF two", ["one", "ab", "cdef", "two"])).toEqual([3, 6, 11, 14]);
    expect(endsIn("ABCDEF", ["ab", "cdef"])).toEqual([2, 6]);
  });

  it("takes no repetition so far behind that the rest has no room for the text", () => {
    expect(endsIn("OK well yes no ok", ["ok", "well", "yes", "no", "ok"])).toEqual([3, 7, 11, 14, 17]);
  });

  it("counts a token whole that holds the end of one text and the beginning of the next", () => {
    const pieces = ["<s>", "on", "e. t", "wo", "."];
    const pushed = { push: (id: number) => pieces[id] ?? "", flush: () => "" } as StreamDecoder;
    expect(tokenEnds(["one.", "two."], [0, 1, 2, 3, 4], pushed)).toEqual([3, 5]);
  });

  it("knows characters that come with a later token", () => {
    const pieces = ["a", "", "é", " b"];
    const held = { push: (id: number) => pieces[id] ?? "", flush: () => "" } as StreamDecoder;
    expect(tokenEnds(["aé", "b"], [0, 1, 2, 3], held)).toEqual([3, 4]);
  });
});

describe("an episode's own positions", () => {
  const centroids = { count: 2, width: 2, values: Float64Array.from([0.9, 0.1, 0.2, 0.8]) };
  const none = { windows: [], representatives: [], prompt: [] };
  const plan = { windows: 1, episodes: [none, none], centroids } satisfies HistoryPlan;
  const context = {
    settings: { match: "cosine" } as EpisodeSettings,
    embed: (texts: readonly string[]) =>
      texts.map((text) => [text.includes("cat") ? 1 : 0, text.includes("car") ? 1 : 0]),
    tokenizer: { streamDecoder: decoder } as PlanContext["tokenizer"],
  };
  const own = (texts: string[]) => {
    const utterances = texts.map((text) => ({ text }));
    return ownPositions({ utterances, separator: " " }, ids(texts.join(" ")), plan, context);
  };
  const END = 2 ** 31 - 1;

  it("are those of the utterances that are nearest to its centroid, and all that follows the history", async () => {
    expect(await own(["a cat", "red car", "my cat"])).toEqual([
      [0, 5, 13, END],
      [5, 13, 20, END],
    ]);
  });

  it("hold an utterance that tells nothing when the one before it belongs there", async () => {
    expect(await own(["red car", "ok", "a cat", "ok"])).toEqual([
      [10, END],
      [0, 10, 19, END],
    ]);
  });
});
