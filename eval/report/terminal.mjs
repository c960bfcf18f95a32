// What the terminal shows at the end.
import { binaryBytes, duration } from "../../bench/report/numbers.mjs";
import { table } from "../../bench/report/table.mjs";
import { SCORERS } from "../score/scorers.mjs";
import { breakEvenTurn, cumulative } from "../turns/account.mjs";
import { forwardedText, scoreText } from "./text.mjs";

export function scoresTable({ data, results }) {
  const head = [
    "data",
    "policy",
    "budget",
    ...data.scorers.map((name) => SCORERS[name].title),
    "peak KV",
    "forwarded",
    "history",
    "answer",
  ];
  const rows = results.map((row) => [
    row.group,
    row.name,
    row.budget ?? "-",
    ...data.scorers.map((name) => (row.scores[name] === undefined ? "-" : scoreText(row.scores[name]))),
    binaryBytes(row.peakBytes),
    forwardedText(row),
    duration(row.ingestMs.median / 1e3),
    duration(row.answerMs.median / 1e3),
  ]);
  return table(head, rows, 2);
}

/** The turn from which on a memory is ahead of full KV, as text. */
export function breakEvenText(series, full) {
  if (series === full) return "-";
  const turn = breakEvenTurn(series, full);
  if (turn === undefined) return "never";
  return turn === 0 ? "at once" : `turn ${turn}`;
}

export function turnsTable({ series }) {
  const [full] = series;
  const head = ["memory", "budget", "set-up", "median turn", "in all", "ahead of full KV", "right", "peak KV"];
  const rows = series.map((one) => [
    one.name,
    one.budget ?? "-",
    duration(one.setUpMs / 1e3),
    duration(one.turn.median / 1e3),
    duration(cumulative(one).at(-1) / 1e3),
    breakEvenText(one, full),
    `${one.right}/${one.turnMs.length}`,
    binaryBytes(one.peakBytes),
  ]);
  return table(head, rows);
}
