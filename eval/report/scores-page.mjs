// The page of a run over budgets: what is answered with how much memory, and what that costs.
import { figure, figures, htmlDocument, legend, machineText, table } from "../../bench/report/document.mjs";
import { binaryBytes, duration, grouped } from "../../bench/report/numbers.mjs";
import { linePlot } from "../../bench/report/plots.mjs";
import { escapeText as e } from "../../bench/report/svg.mjs";
import { SCORERS } from "../score/scorers.mjs";
import { forwardedText, groupsOf, policyTexts, scoreText, share } from "./text.mjs";

const percent = (value) => `${value} %`;
const FULL = "full KV";
const BUDGET_AXIS = { label: "rows kept per KV head and layer", format: String };

/** Every policy has the same colour and mark in all plots. */
const stylesOf = (results) => [
  ...new Set(results.filter(({ budget }) => budget !== null).map(({ name }) => name)),
];

function seriesOf(rows, names, point) {
  return names
    .map((name, style) => ({ name, style, points: rows.filter((row) => row.name === name).flatMap(point) }))
    .filter(({ points }) => points.length > 0);
}

/** One point of a score plot, or none where the scorer counts no question. */
function scorePoint(row, scorer, x) {
  const score = row.scores[scorer];
  if (score === undefined) return [];
  const rows = row.budget === null ? "" : `, ${row.budget} rows`;
  const text = `${row.name}${rows}, ${binaryBytes(row.peakBytes)}: ${scoreText(score)}`;
  return [{ x, value: 100 * score.mean, low: 100 * score.low, high: 100 * score.high, text }];
}

const captionOf = ({ name }, scorer, scorers) =>
  scorers.length > 1 ? `${name}, ${SCORERS[scorer].title}` : name;

function scoreFigures(groups, scorers, names) {
  return groups.flatMap((group) =>
    scorers.map((scorer) => {
      const caption = captionOf(group, scorer, scorers);
      const full = group.full?.scores[scorer];
      const plot = linePlot({
        title: `${caption}: score against budget`,
        yLabel: SCORERS[scorer].title,
        yFormat: percent,
        x: BUDGET_AXIS,
        ...(full === undefined ? {} : { reference: { name: FULL, value: 100 * full.mean } }),
        series: seriesOf(group.rows, names, (row) => scorePoint(row, scorer, row.budget)),
      });
      return figure(caption, plot);
    }),
  );
}

/** Full KV has no budget, but a price like the others. */
const fullPoint = ({ full }) => (full === undefined ? [] : [{ ...full, name: FULL }]);

function priceFigures(groups, scorers, names) {
  return groups.flatMap((group) =>
    scorers.map((scorer) => {
      const caption = captionOf(group, scorer, scorers);
      const plot = linePlot({
        title: `${caption}: score against peak memory`,
        yLabel: SCORERS[scorer].title,
        yFormat: percent,
        x: { label: "keys and values at their peak", kind: "log", format: binaryBytes },
        named: false,
        series: seriesOf([...group.rows, ...fullPoint(group)], [...names, FULL], (row) =>
          scorePoint(row, scorer, row.peakBytes),
        ),
      });
      return figure(caption, plot);
    }),
  );
}

function memoryFigures(groups, names) {
  return groups.map((group) => {
    const most = Math.max(...group.rows.map(({ peakBytes }) => peakBytes));
    const [unit, bytes] = most < 8 * 2 ** 20 ? ["KiB", 2 ** 10] : ["MiB", 2 ** 20];
    const plot = linePlot({
      title: `${group.name}: peak memory against budget`,
      yLabel: `${unit} of keys and values at their peak`,
      x: BUDGET_AXIS,
      ...(group.full === undefined ? {} : { reference: { name: FULL, value: group.full.peakBytes / bytes } }),
      series: seriesOf(group.rows, names, (row) => ({
        x: row.budget,
        value: row.peakBytes / bytes,
        text: `${row.name}, ${row.budget} rows: ${binaryBytes(row.peakBytes)}`,
      })),
    });
    return figure(group.name, plot);
  });
}

/** Forwarded tokens as bars: they depend on the policy and the block, hardly on the budget. */
function forwardedTables(groups) {
  return groups.map(({ name, rows }) => {
    const known = rows.filter(({ forwardedTokens }) => forwardedTokens !== null);
    const most = Math.max(...known.map(({ forwardedTokens }) => forwardedTokens));
    const first = [...new Set(known.map((row) => row.name))].map((policy) =>
      known.find((row) => row.name === policy),
    );
    return table(
      `${name}: tokens forwarded to take one conversation in, on average`,
      ["policy", "tokens", "a token of it"],
      first.map((row) => [
        row.name,
        grouped(row.forwardedTokens),
        { percent: (100 * row.forwardedTokens) / most, text: forwardedText(row) },
      ]),
    );
  });
}

function categoryTables(groups, scorers) {
  return groups.flatMap((group) =>
    scorers.map((scorer) => {
      const categories = group.rows[0].categories.filter(({ scores }) => scores[scorer] !== undefined);
      const head = ["policy", "budget", ...categories.map(({ name, asked }) => `${name} (${asked})`), "all"];
      const rows = group.rows.map((row) => {
        const of = (name) => row.categories.find((category) => category.name === name)?.scores[scorer];
        const cells = [...categories.map(({ name }) => of(name)), row.scores[scorer]];
        return [
          row.name,
          row.budget ?? "-",
          ...cells.map((score) => (score === undefined ? "-" : share(score.mean))),
        ];
      });
      return table(`${captionOf(group, scorer, scorers)}: by category, with how many were asked`, head, rows);
    }),
  );
}

function allRuns(results, scorers) {
  const head = [
    "data",
    "policy",
    "budget",
    ...scorers.map((name) => SCORERS[name].title),
    "asked",
    "peak KV",
    "reserved",
    "forwarded",
    "history taken in",
    "question and answer",
  ];
  const rows = results.map((row) => [
    row.group,
    row.name,
    row.budget ?? "-",
    ...scorers.map((name) => (row.scores[name] === undefined ? "-" : scoreText(row.scores[name]))),
    row.asked,
    binaryBytes(row.peakBytes),
    binaryBytes(row.reservedBytes),
    forwardedText(row),
    duration(row.ingestMs.median / 1e3),
    duration(row.answerMs.median / 1e3),
  ]);
  return table(
    "Scores with their 95 % interval; times are medians over conversations and questions",
    head,
    rows,
    2,
  );
}

/** The best bounded policy at each budget of a group, in words. */
function bestSentence({ name, rows, full }, scorer) {
  const budgets = [...new Set(rows.flatMap(({ budget }) => (budget === null ? [] : [budget])))];
  const best = budgets.flatMap((budget) => {
    const candidates = rows.filter((row) => row.budget === budget && row.scores[scorer] !== undefined);
    if (candidates.length === 0) return [];
    const winner = candidates.reduce((a, b) => (b.scores[scorer].mean > a.scores[scorer].mean ? b : a));
    return [`${winner.name} ${share(winner.scores[scorer].mean)} with ${budget} rows`];
  });
  const whole =
    full?.scores[scorer] === undefined
      ? ""
      : ` Full KV: ${share(full.scores[scorer].mean)}, in ${binaryBytes(full.peakBytes)}.`;
  return `${name}: the best is ${best.join(", ")}.${whole}`;
}

/** @param {object} result as `npm run eval` writes it */
export function renderScores(result) {
  const { data, results, model, settings } = result;
  const { scorers } = data;
  const groups = groupsOf(results);
  const names = stylesOf(results);
  const asked = results[0].asked;
  const left =
    data.leftOut === 0 ? "" : ` ${grouped(data.leftOut)} questions without a comparable answer were left out.`;
  const policies = policyTexts(results.map(({ policy }) => policy)).map((text) => `<li>${e(text)}</li>`);
  const bounded = names.length > 0;
  const plots = bounded
    ? `<h2>Answers against the budget</h2>
<ul>${groups.map((group) => `<li>${e(bestSentence(group, scorers[0]))}</li>`).join("")}</ul>
${figures(scoreFigures(groups, scorers, names))}
<h2>Answers against memory</h2>
<p>The same answers against what they took: the most bytes that the keys and values of one conversation ever filled, blocks under way included. Further left is cheaper, further up is better. A policy with several memories, such as epicache, pays for all of them.</p>
${legend([...names, FULL])}
${figures(priceFigures(groups, scorers, names))}
<h2>Peak memory against the budget</h2>
<p>Full KV grows with the conversation; the others are given their memory before it starts and never pass it.</p>
${figures(memoryFigures(groups, names))}`
    : "";
  const body = `<p>A language model remembers a conversation as keys and values ("KV"), one row for every token in each of its layers and KV heads. Full KV keeps all of them. The other policies may keep only so many rows, their budget: the conversation goes through the model in blocks of ${settings.block} tokens, and after each block they decide which rows stay, without knowing what will be asked. Every question finds the memory as it was after the conversation.</p>
<ul>${policies.join("")}</ul>
<p>${e(scorers.map((name) => SCORERS[name].about).join(" "))} The thin bars are 95 % intervals that treat questions as independent.${e(left)}</p>
${plots}
<h2>Tokens forwarded</h2>
<p>How many tokens the model has to compute until a conversation is remembered: each once, and besides whatever a policy reads again to judge its rows.</p>
${forwardedTables(groups).join("")}
<h2>By category</h2>
${data.categories === undefined ? "" : `<p>${e(data.categories)}</p>`}
${categoryTables(groups, scorers).join("")}
<h2>All runs</h2>
${allRuns(results, scorers)}`;
  return htmlDocument({
    title: `longhaul eval, ${model.name}, ${data.name}`,
    heading: `What ${model.name} remembers`,
    subtitle: `${grouped(asked)} questions about ${results[0].dialogues} conversations (${data.name}) a row. ${machineText(result)}.`,
    body,
  });
}
