// One self-contained page of a result: plots, what they show, tables. Nothing is fetched, nothing is run.
import { groupRuns, ratiosOf, residentToStated, sharesOf } from "./compare.mjs";
import { figure, figures, htmlDocument, legend, machineText, table } from "./document.mjs";
import { ceilingText, duration, grouped, megabytes, percent, seriesName, short, tokens } from "./numbers.mjs";
import { historyPlot, kindOf, OP_KINDS, rooflinePlot, sharePlot } from "./plots.mjs";
import { escapeText as e } from "./svg.mjs";

const threadsText = (count) => `${count} ${count === 1 ? "thread" : "threads"}`;
const groupName = ({ model, dtype, threads }) => `${model} ${dtype}, ${threadsText(threads)}`;

/** Full cache, budgets in the order they come, the peer: always the same colours and marks. */
function seriesOf({ records }, pick) {
  const budgets = [...new Set(records.map(({ memory }) => memory))].filter((memory) => memory !== "full");
  return records.map((record) => {
    const peer = record.engine !== "longhaul";
    const style = peer ? 3 : record.memory === "full" ? 0 : 1 + (budgets.indexOf(record.memory) % 2);
    const name = peer ? "llama.cpp" : record.memory === "full" ? "full" : record.memory;
    return { name, style, points: record.points.map((point) => ({ history: point.history, ...pick(point) })) };
  });
}

const spread = (scale) => (summary) => ({
  value: summary.median * scale,
  low: summary.low * scale,
  high: summary.high * scale,
});

function historyFigures(groups, yLabel, pick) {
  const plots = groups.map((group) => {
    const title = `${yLabel}, ${groupName(group)}`;
    return figure(groupName(group), historyPlot({ title, yLabel, series: seriesOf(group, pick) }));
  });
  return figures(plots);
}

/** The best case of an op at a thread count. */
function bestOf(ops, name, threads) {
  const cases = ops.filter(({ op, threads: count }) => op === name && count === threads);
  return cases.reduce((best, op) => (best === undefined || op.percent > best.percent ? op : best), undefined);
}

function opsSection({ ops, ceilings }) {
  if (ops.length === 0) return "";
  const counts = [...new Set(ops.map(({ threads }) => threads))];
  const hasRates = (threads) => ops.some((op) => op.threads === threads && op.flops > 0);
  const parts = ["<h2>How far each op is from what the machine can do</h2>"];
  const gemm = bestOf(ops, "gemm", counts[0]);
  const attention = bestOf(ops, "attention", counts[0]);
  parts.push(
    "<p>Each mark is one op at one shape; the lines are the rates that the same process reached by only reading or only multiplying, and a mark stays below the line of the place where its data lie and of the instructions that it needs. ",
    gemm === undefined
      ? ""
      : `On ${threadsText(counts[0])} the best matrix product reaches ${short(gemm.percent)} % of ${e(ceilingText(gemm.bound))}${attention === undefined ? "" : `, the best attention ${short(attention.percent)} % of ${e(ceilingText(attention.bound))}`}.`,
    "</p>",
    legend(OP_KINDS),
  );
  for (const threads of counts.filter(hasRates)) {
    parts.push(`<figure><figcaption>Roofline, ${threadsText(threads)}</figcaption>`);
    for (const narrow of [false, true]) parts.push(rooflinePlot({ ops, ceilings, threads, narrow }));
    parts.push("</figure>");
  }
  const most = counts.at(-1);
  const low = ops.filter(({ threads, percent }) => threads === most && percent < 50).length;
  const all = ops.filter(({ threads }) => threads === most).length;
  parts.push(
    `<h3>Share of the ceiling</h3><p>The same cases as shares of whichever ceiling binds them, the median call against the best window of the ceiling. On ${threadsText(most)} ${grouped(all - low)} of ${grouped(all)} cases reach half of theirs or more; a case of few microseconds is bounded by being called at all.</p>`,
  );
  for (const threads of counts) {
    parts.push(`<figure><figcaption>${threadsText(threads)}</figcaption>`);
    for (const narrow of [false, true]) parts.push(sharePlot({ ops, threads, narrow }));
    parts.push("</figure>");
  }
  const sorted = [...ops].sort((a, b) => kindOf(a) - kindOf(b));
  const rows = sorted.map((op) => [
    `${op.op} ${op.case}`,
    `${op.model} ${op.dtype}`,
    op.threads,
    duration(op.median_s),
    `${short(op.low_s / op.median_s)} to ${short(op.high_s / op.median_s)}`,
    grouped(op.bytes),
    grouped(op.flops),
    short(op.bytes_per_s / 1e9),
    short(op.flops_per_s / 1e9),
    op.bound,
    { percent: op.percent },
    `${short(op.percent_best)} %`,
  ]);
  const head = [
    "op",
    "shape",
    "threads",
    "median",
    "10 to 90 %",
    "bytes",
    "FLOP",
    "GB/s",
    "GFLOP/s",
    "bound",
    "reached",
    "best window",
  ];
  parts.push(
    `<details><summary>All ${ops.length} cases</summary>${table("Bytes and FLOP of one call; rates of the median", head, rows, 2)}</details>`,
  );
  return parts.join("");
}

/** How decoding changes with the history, in numbers of the group with the longest one. */
function decodeSentence(groups) {
  const group = groups.reduce((best, next) =>
    next.records[0].points.at(-1).history > best.records[0].points.at(-1).history ? next : best,
  );
  const full = group.records.find(({ engine, memory }) => engine === "longhaul" && memory === "full");
  const budget = group.records
    .filter(({ engine, memory }) => engine === "longhaul" && memory !== "full")
    .at(-1);
  if (full === undefined) return "";
  const [first, last] = [full.points[0], full.points.at(-1)];
  const rate = (point) => short(point.decodeTokensPerSecond.median);
  const kept =
    budget === undefined
      ? ""
      : `, with a ${budget.memory.replace("budget ", "")}-row budget from ${rate(budget.points[0])} to ${rate(budget.points.at(-1))}`;
  return `Between ${tokens(first.history)} and ${tokens(last.history)} tokens the full cache of ${groupName(group)} goes from ${rate(first)} to ${rate(last)} tokens/s${kept}.`;
}

function memorySentence(groups) {
  const shares = groups.flatMap(({ records }) =>
    records.map(residentToStated).filter((share) => share !== undefined),
  );
  if (shares.length === 0) return "";
  return `The process takes ${short(100 * Math.min(...shares))} to ${short(100 * Math.max(...shares))} % of what engine.memory() states; the smallest models are far off, because the tokenizer and JavaScript count too.`;
}

function engineSection(result) {
  const { engines } = result;
  if (engines.length === 0) return "";
  const groups = groupRuns(engines);
  const long = groups.filter(({ records }) => records[0].points.length > 1);
  const first = long.filter(({ threads }) => threads === long[0].threads);
  const parts = [];
  if (long.length > 0) {
    parts.push(
      `<h2>Decoding against the length of the history</h2><p>Each token reads all weights and every row that is kept, so a full cache gets slower with its history and a bounded one does not. ${e(decodeSentence(long))}</p>`,
      historyFigures(long, "tokens/s", (point) => spread(1)(point.decodeTokensPerSecond)),
      "<h2>Prefill against the length of the history</h2><p>Each mark is the rate of the stretch of history that ends there; attention over what is kept grows with it, the matrix products do not. A budget pays for scoring each block and saves the attention over what it dropped.</p>",
      historyFigures(long, "tokens/s", (point) => spread(1)(point.prefillTokensPerSecond)),
      `<h2>Memory against the length of the history</h2><p>The most that was resident so far, less what the process had before loading: weights, working memory and the rows that are kept. ${e(memorySentence(first))}</p>`,
      historyFigures(first, "MB", (point) => spread(1e-6)(point.residentBytes)),
    );
  }
  const rows = groups.flatMap((group) =>
    group.records.flatMap((record) =>
      record.points.map((point) => [
        groupName(group),
        seriesName(record).replace("longhaul, ", ""),
        tokens(point.history),
        short(point.prefillTokensPerSecond.median),
        percent(sharesOf(result, record, point).prefill),
        short(point.decodeTokensPerSecond.median),
        percent(sharesOf(result, record, point).decode),
        `${short(point.decodeTokensPerSecond.low)} to ${short(point.decodeTokensPerSecond.high)}`,
        duration(point.firstTokenMs.median / 1e3),
        duration(point.nextTokenMs.median / 1e3),
        point.kvBytes === undefined ? "" : short(megabytes(point.kvBytes)),
        short(megabytes(point.residentBytes.median)),
      ]),
    ),
  );
  const head = [
    "run",
    "series",
    "history",
    "prefill/s",
    "of peak",
    "decode/s",
    "of read",
    "range",
    "first token",
    "next",
    "KV MB",
    "RSS MB",
  ];
  parts.push(
    "<h2>All runs</h2><p>First token: of somebody who brings the whole history along. Next: the first token of an answer when the history is in the cache already. RSS: the most that was resident so far, less what the process had before loading. Of peak: the FLOP of a prefill behind a full cache against the multiply-add rate; of read: the weights and rows that a token of a full cache reads against the read rate of memory.</p>",
    table("Tokens per second, medians over answers and processes", head, rows, 2),
  );
  const ratios = groups.flatMap((group) =>
    ratiosOf(group).map(({ what, history, ours, theirs, ratio }) => [
      groupName(group),
      what,
      tokens(history),
      short(ours),
      short(theirs),
      `${short(ratio)}x`,
    ]),
  );
  if (ratios.length > 0) {
    parts.push(
      "<h2>Side by side</h2><p>Ratios of medians, tokens per second. Processes of both engines ran in turn, on the same weights at the same precision; the peer keeps f16 keys and values, longhaul the weights' type.</p>",
      table("Ratios", ["run", "what", "history", "longhaul", "against", "ratio"], ratios, 2),
    );
  }
  return parts.join("");
}

function neighbourSection(neighbour) {
  if (neighbour === undefined) return "";
  const { model, threads, alone, beside, ratio } = neighbour;
  return `<h2>Beside a busy process</h2><p>${e(model)} on ${threadsText(threads)} decodes ${short(alone.median)} tokens/s alone and ${short(beside.median)} while another process keeps a core busy: ${short(100 * ratio)} %. Ranges: ${short(alone.low)} to ${short(alone.high)}, ${short(beside.low)} to ${short(beside.high)}.</p>`;
}

/** @param {object} result as `npm run bench` writes it */
export function renderPage(result) {
  const { machine, loadAverage, ceilings, options } = result;
  const rows = ceilings.map(({ name, threads, unit, best, median }) => [
    name,
    threads,
    `${short(best / 1e9)} G${unit}`,
    `${short(median / 1e9)} G${unit}`,
  ]);
  const { before, after } = loadAverage;
  const subtitle = `${machineText(result)}${options.quick ? ", quick run" : ""}. Load average ${before.join(" ")} before, ${after.join(" ")} after.`;
  const ceilingSection =
    rows.length === 0
      ? ""
      : `<h2>Ceilings</h2><p>What the loops reached that only read or only multiply: the best window, which the shares above refer to, and the median, which tells how steady the machine was. A core's cache is read over 256 KB, the shared one over 4 MB a thread, memory over 256 MB a thread.</p>${table("Per second, all threads together", ["ceiling", "threads", "best", "median"], rows)}`;
  const body = [opsSection(result), engineSection(result), neighbourSection(result.neighbour), ceilingSection];
  return htmlDocument({
    title: `longhaul bench, ${machine.cpu}`,
    heading: "longhaul bench",
    subtitle,
    body: body.join("\n"),
  });
}
