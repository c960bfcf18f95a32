import { beforeAll, describe, expect, it } from "vitest";
import { importEval } from "./support.js";

interface Question {
  readonly answer: string;
  readonly kind?: number;
  readonly category?: string;
}
type Score = (question: Question, prediction: string) => number | undefined;
interface Summary {
  readonly asked: number;
  readonly scores: Record<string, { mean: number; low: number; high: number; count: number }>;
  readonly categories: readonly { name: string; asked: number; scores: Summary["scores"] }[];
}
interface Scorers {
  readonly SCORERS: Record<string, { score: Score }>;
  readonly Tally: new (
    names: readonly string[],
  ) => { add(question: Question, prediction: string): object; summary(): Summary };
}

let locomo: Score;
let epicache: Score;
let exact: Score;
let scorers: Scorers;
beforeAll(async () => {
  scorers = await importEval<Scorers>("score/scorers");
  const { SCORERS } = scorers;
  [locomo, epicache, exact] = ["locomo-f1", "epicache-f1", "exact"].map(
    (name) => SCORERS[name]?.score as Score,
  ) as [Score, Score, Score];
});

describe("LoCoMo's scorer", () => {
  it("compares stems", () => {
    expect(locomo({ answer: "dog runs", kind: 4 }, "The running dogs!")).toBe(1);
    expect(locomo({ answer: "dog runs", kind: 4 }, "a cat")).toBe(0);
  });

  it("is the harmonic mean of precision and recall", () => {
    // "she move to oslo in may 2023" shares 2 of 7 words, and 2 of 2: 2 * 2/7 / (9/7).
    expect(locomo({ answer: "May 2023", kind: 2 }, "She moved to Oslo, in May 2023.")).toBeCloseTo(4 / 9, 12);
  });

  it("counts a word as often as both have it", () => {
    // 1 of 3 words and 1 of 2.
    expect(locomo({ answer: "no idea", kind: 4 }, "no no no")).toBeCloseTo(
      (2 * (1 / 3) * (1 / 2)) / (5 / 6),
      12,
    );
  });

  it("leaves out articles, 'and', punctuation and commas in numbers", () => {
    expect(locomo({ answer: "The pen and an apple", kind: 4 }, "pen, apple")).toBe(1);
    expect(locomo({ answer: "5,000 km", kind: 4 }, "5000 km")).toBe(1);
    // Not within a word, also not beside a letter with an accent.
    expect(locomo({ answer: "Andé", kind: 4 }, "é")).toBe(0);
    expect(locomo({ answer: "éand", kind: 4 }, "éand")).toBe(1);
  });

  it("keeps number words apart from digits", () => {
    expect(locomo({ answer: "two", kind: 4 }, "2")).toBe(0);
  });

  it("scores the parts of a multi-hop answer, each by the best part of the prediction", () => {
    const answer = "pottery, camping, painting, swimming";
    // pottery: 2/3 by "pottery classes"; camping: 1; the others: 0.
    expect(locomo({ answer, kind: 1 }, "camping, pottery classes")).toBeCloseTo((2 / 3 + 1) / 4, 12);
    // Of one part, 1 of 4 words and 1 of 1 for two of the answer's parts: 2 * 1/4 / (5/4).
    expect(locomo({ answer, kind: 1 }, "camping with some pottery")).toBeCloseTo((0.4 + 0.4) / 4, 12);
    expect(locomo({ answer, kind: 4 }, "camping, pottery classes")).toBeCloseTo(
      (2 * (2 / 3) * 0.5) / (7 / 6),
      12,
    );
    expect(locomo({ answer, kind: 1 }, "")).toBe(0);
  });

  it("takes what is before the semicolon of an open-domain answer", () => {
    const answer = "Likely no; she would have said so";
    expect(locomo({ answer, kind: 3 }, "likely no")).toBe(1);
    expect(locomo({ answer, kind: 4 }, "likely no")).toBeLessThan(0.5);
  });

  it("wants to hear that an adversarial question has no answer", () => {
    const question = { answer: "Not mentioned in the conversation", kind: 5 };
    expect(locomo(question, "This is NOT MENTIONED anywhere")).toBe(1);
    expect(locomo(question, "No information available.")).toBe(1);
    expect(locomo(question, "not said")).toBe(0);
  });
});

describe("EpiCache's scorer", () => {
  it("compares whole words", () => {
    expect(epicache({ answer: "dog runs" }, "The running dogs!")).toBe(0);
    expect(epicache({ answer: "running dogs" }, "The running dogs!")).toBe(1);
  });

  it("takes digit words for digits", () => {
    expect(epicache({ answer: "two years" }, "2 years")).toBe(1);
    expect(epicache({ answer: "Nine" }, "9")).toBe(1);
    expect(epicache({ answer: "ten" }, "10")).toBe(0);
  });

  it("keeps 'and', which LoCoMo's leaves out", () => {
    // 2 of 3 words and 2 of 2.
    expect(epicache({ answer: "pen apple" }, "a pen and an apple")).toBeCloseTo(0.8, 12);
  });

  it("scores every category alike, without the adversarial one", () => {
    const answer = "pottery, camping";
    // 1 of 1 and 1 of 2.
    for (const kind of [1, 2, 3, 4]) expect(epicache({ answer, kind }, "camping")).toBeCloseTo(2 / 3, 12);
    expect(epicache({ answer, kind: 5 }, "camping")).toBeUndefined();
  });

  it("gives nothing for an empty answer", () => {
    expect(epicache({ answer: "a" }, "the")).toBe(0);
  });
});

it("the exact scorer wants the very value", () => {
  expect(exact({ answer: "whistle" }, "coco sound is whistle")).toBe(1);
  expect(exact({ answer: "whistle" }, "coco sound is whistles")).toBe(0);
  expect(exact({ answer: "whistle" }, "whistle")).toBe(0);
});

it("a tally adds up in all and by category, without what does not count", () => {
  const tally = new scorers.Tally(["locomo-f1", "epicache-f1"]);
  expect(tally.add({ answer: "Oslo", kind: 4, category: "single-hop" }, "Oslo")).toEqual({
    "locomo-f1": 1,
    "epicache-f1": 1,
  });
  tally.add({ answer: "Rome", kind: 4, category: "single-hop" }, "Oslo");
  expect(tally.add({ answer: "none", kind: 5, category: "adversarial" }, "not mentioned")).toEqual({
    "locomo-f1": 1,
  });
  const { asked, scores, categories } = tally.summary();
  expect(asked).toBe(3);
  expect(scores["locomo-f1"]).toMatchObject({ mean: expect.closeTo(2 / 3, 12), count: 3 });
  expect(scores["epicache-f1"]).toMatchObject({ mean: 0.5, count: 2 });
  // 1.96 * sqrt(variance / 2) with a variance of 1/2 is 0.98: cut off at 0 and 1.
  expect(scores["epicache-f1"]).toMatchObject({ low: 0, high: 1 });
  // A variance of 1/3 among three: 0.6533, so that the lower end is 0.0133.
  expect(scores["locomo-f1"]?.low).toBeCloseTo(2 / 3 - 1.96 / 3, 12);
  expect(categories.map(({ name, asked: count }) => [name, count])).toEqual([
    ["single-hop", 2],
    ["adversarial", 1],
  ]);
  expect(categories[1]?.scores).not.toHaveProperty("epicache-f1");
});
