import { beforeAll, describe, expect, it } from "vitest";
import { importEval } from "./support.js";

let renderScores: (result: object) => string;
let renderTurns: (result: object) => string;
beforeAll(async () => {
  ({ renderScores } = await importEval<{ renderScores: typeof renderScores }>("report/scores-page"));
  ({ renderTurns } = await importEval<{ renderTurns: typeof renderTurns }>("report/turns-page"));
});

const about = {
  date: "2026-01-02T03:04:05.000Z",
  machine: {
    cpu: "Some <CPU>",
    cores: 2,
    features: ["avx2"],
    memoryBytes: 2 ** 34,
    system: "Linux 6",
    node: "20",
  },
  model: { name: "some-model" },
};

const mean = (value: number) => ({ mean: value, low: value - 0.05, high: value + 0.05, count: 40 });
const summary = (median: number) => ({ median, low: median, high: median, count: 1 });
const row = (
  name: string,
  budget: number | null,
  score: number,
  peakBytes: number,
  forwardedTokens: number | null,
) => ({
  group: "1024 tokens",
  name,
  policy: name.split(" ")[0],
  options: {},
  budget,
  dialogues: 2,
  asked: 40,
  scores: { exact: mean(score) },
  categories: [
    { name: "first quarter", asked: 10, scores: { exact: mean(score - 0.1) } },
    { name: "last quarter", asked: 30, scores: { exact: mean(score) } },
  ],
  tokens: 1000,
  forwardedTokens,
  peakBytes,
  reservedBytes: 2 * peakBytes,
  ingestMs: summary(37),
  answerMs: summary(1.5),
});

const scores = {
  ...about,
  kind: "scores",
  settings: { block: 128 },
  data: { name: "generated dialogues", scorers: ["exact"], leftOut: 3, categories: "By quarter." },
  results: [
    row("full", null, 0.994, 3 * 1024 * 1024, 1000),
    row("keydiff", 64, 0.712, 160 * 1024, 1000),
    row("keydiff", 128, 0.933, 250 * 1024, 1000),
    row("epicache episodes=8", 64, 0.823, 1100 * 1024, 6200),
    row("epicache episodes=8", 128, 0.834, 1400 * 1024, 6200),
    row("novel", 64, 0.5, 160 * 1024, null),
  ],
};

const series = (name: string, budget: number | null, setUpMs: number, turn: number) => ({
  name,
  policy: name,
  options: {},
  budget,
  setUpMs,
  turnMs: Array(300).fill(turn),
  turn: { median: turn, low: turn, high: turn },
  right: 291,
  forwardedTokens: 12345,
  peakBytes: 5 * 1024 * 1024,
});

const turns = {
  ...about,
  kind: "turns",
  loadAverage: { before: [0.11, 0, 0], after: [1.22, 0, 0] },
  settings: { turns: 300, switches: 0.3, threads: 1 },
  historyTokens: 2040,
  switched: 88,
  topics: 8,
  series: [series("full", null, 100, 3), series("keydiff", 256, 90, 2), series("epicache", 256, 149.5, 2)],
};

it("the page of scores shows the numbers of a result", () => {
  const page = renderScores(scores);
  const numbers = [
    "99.4 %",
    "71.2 % ± 5.0",
    "93.3 %",
    "82.3 %",
    "61.2 %",
    "160 KiB",
    "1.07 MiB",
    "6.20x",
    "37.0 ms",
  ];
  for (const number of numbers) expect(page).toContain(number);
  for (const text of [
    "Some &lt;CPU&gt;",
    "some-model",
    "first quarter (10)",
    "By quarter.",
    "6,200",
    "3 questions without",
  ])
    expect(page).toContain(text);
  expect(page).toContain("the best is epicache episodes=8 82.3 % with 64 rows, keydiff 93.3 % with 128 rows.");
  expect(page).toContain("unknown");
  expect(page.match(/<svg class="plot"/g)).toHaveLength(3);
  // Full KV is a dashed line in two of the plots.
  expect(page.match(/full KV<\/text>/g)).toHaveLength(2);
});

it("the page of scores shows two scorers side by side, and full KV alone", () => {
  const both = scores.results.map((one) => ({
    ...one,
    scores: { "locomo-f1": mean(0.4), "epicache-f1": mean(0.3) },
    categories: [
      { name: "single-hop", asked: 10, scores: { "locomo-f1": mean(0.45), "epicache-f1": mean(0.35) } },
      { name: "adversarial", asked: 5, scores: { "locomo-f1": mean(0.25) } },
    ],
  }));
  const data = { name: "LoCoMo", scorers: ["locomo-f1", "epicache-f1"], leftOut: 0 };
  const page = renderScores({ ...scores, data, results: both });
  expect(page.match(/<svg class="plot"/g)).toHaveLength(5);
  for (const text of ["F1, LoCoMo's scorer", "F1, EpiCache's scorer", "45 %", "35 %", "25 %"])
    expect(page).toContain(text);
  const alone = renderScores({ ...scores, results: scores.results.slice(0, 1) });
  expect(alone).not.toContain('<svg class="plot"');
  expect(alone).toContain("99.4 %");
});

it("the page of turns tells when a memory is ahead", () => {
  const page = renderTurns(turns);
  expect(page).toContain(
    "keydiff 256 is ahead of full KV from the beginning on (690 ms in all, full KV 1.00 s).",
  );
  // 149.5 + 2 n < 100 + 3 n from n = 50 on.
  expect(page).toContain("epicache 256 is ahead of full KV from turn 50 on");
  for (const text of [
    "300 turns",
    "88 of the turns",
    "2,040",
    "97 %",
    "12,345",
    "5 MiB",
    "turn 50",
    "at once",
    "0.11",
  ])
    expect(page).toContain(text);
  expect(page.match(/<svg class="plot"/g)).toHaveLength(2);
  const slow = renderTurns({ ...turns, series: [turns.series[0], series("keydiff", 256, 200, 3)] });
  expect(slow).toContain("keydiff 256 has not caught up with full KV after 300 turns");
});

it("the pages ask nothing of a network and run nothing", () => {
  for (const page of [renderScores(scores), renderTurns(turns)]) {
    expect(page).not.toMatch(/https?:|<script|<link|@import|url\(/);
    expect(page).toContain("prefers-color-scheme: dark");
    expect(page).toContain('name="viewport"');
    expect(page).not.toContain("NaN");
    expect(page).not.toContain("undefined");
  }
});

describe("plots", () => {
  it("place a value by its axis", async () => {
    const { linePlot } = (await import(new URL("../../bench/report/plots.mjs", import.meta.url).href)) as {
      linePlot(plot: object): string;
    };
    const plot = (kind: string, xs: number[]) =>
      linePlot({
        title: "t",
        yLabel: "y",
        x: { label: "x", kind, format: String },
        series: [{ name: "s", style: 11, points: xs.map((x, i) => ({ x, value: i, text: `at ${x}` })) }],
      });
    const centres = (page: string) =>
      [...page.matchAll(/class="touch" cx="([\d.]+)"/g)].map(([, x]) => Number(x));
    const [a, b, c] = centres(plot("log", [1, 2, 4])) as [number, number, number];
    expect(c - b).toBeCloseTo(b - a, 1);
    const [d, e, f] = centres(plot("linear", [1, 2, 4])) as [number, number, number];
    expect(f - e).toBeCloseTo(2 * (e - d), 0);
    // The twelfth series has the second colour, and the fourth shape.
    expect(plot("points", [1, 2, 4])).toContain('<g class="mark s1"><path');
  });
});
