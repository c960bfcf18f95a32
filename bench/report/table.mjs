// What the terminal shows.
import Table from "cli-table3";
import { groupRuns, ratiosOf, residentToStated, sharesOf } from "./compare.mjs";
import { duration, megabytes, percent, seriesName, short, tokens } from "./numbers.mjs";

const threadsText = (count) => `${count} ${count === 1 ? "thread" : "threads"}`;

/** One line as soon as something is measured. */
export function progressLine(line) {
  switch (line.kind) {
    case "ceiling":
      return `${line.name.padEnd(20)} ${threadsText(line.threads).padEnd(10)} ${short(line.best / 1e9)} G${line.unit}`;
    case "op":
      return `${`${line.op} ${line.model} ${line.case} ${line.dtype}`.padEnd(64)} ${threadsText(line.threads).padEnd(10)} ${duration(line.median_s).padStart(9)} ${short(line.percent)} % of ${line.bound}`;
    case "failure":
      return `${line.op} ${line.model} ${line.case} ${line.dtype}: ${line.message}`;
    default: {
      const last = line.points.at(-1);
      return `${`engine ${line.model} ${line.dtype} ${seriesName(line)}`.padEnd(64)} ${threadsText(line.threads).padEnd(10)} at ${tokens(last.history)}: prefill ${short(last.prefillTokensPerSecond.median)}, decode ${short(last.decodeTokensPerSecond.median)} tokens/s`;
    }
  }
}

/** A grid as text; columns from `rightFrom` on are numbers. */
export function table(head, rows, rightFrom = 1) {
  const colAligns = head.map((_, index) => (index < rightFrom ? "left" : "right"));
  const printed = new Table({ head, colAligns, style: { head: [], border: [], compact: true } });
  printed.push(...rows);
  return printed.toString();
}

/** Each op's cases of one model and thread count, the least and the most of its ceiling that they reach. */
function opRows(ops) {
  return ops.map((op) => [
    `${op.op} ${op.case}`,
    `${op.model} ${op.dtype}`,
    op.threads,
    duration(op.median_s),
    short(op.bytes_per_s / 1e9),
    short(op.flops_per_s / 1e9),
    op.bound,
    `${short(op.percent)} %`,
    `${short(op.percent_best)} %`,
  ]);
}

const range = ({ median, low, high }) => `${short(median)} (${short(low)}-${short(high)})`;

export function printSummary(result) {
  if (result.ceilings.length > 0) {
    console.log("\nCeilings of this machine, best window and median");
    const rows = result.ceilings.map(({ name, threads, unit, best, median }) => [
      name,
      threads,
      `${short(best / 1e9)} G${unit}`,
      `${short(median / 1e9)} G${unit}`,
    ]);
    console.log(table(["ceiling", "threads", "best", "median"], rows));
  }
  if (result.ops.length > 0) {
    console.log("\nOps: time and rates of the median call, and its share of the ceiling that binds it");
    const head = ["op", "model", "threads", "time", "GB/s", "GFLOP/s", "bound by", "reached", "best window"];
    console.log(table(head, opRows(result.ops), 2));
  }
  for (const group of groupRuns(result.engines)) {
    console.log(`\n${group.model} shape, ${group.dtype}, ${threadsText(group.threads)}: median (range)`);
    const head = [
      "history",
      "series",
      "prefill tokens/s",
      "of peak",
      "decode tokens/s",
      "of read",
      "first token",
      "KV MB",
      "resident MB",
    ];
    const rows = group.records.flatMap((record) =>
      record.points.map((point) => [
        tokens(point.history),
        seriesName(record),
        range(point.prefillTokensPerSecond),
        percent(sharesOf(result, record, point).prefill),
        range(point.decodeTokensPerSecond),
        percent(sharesOf(result, record, point).decode),
        duration(point.firstTokenMs.median / 1e3),
        point.kvBytes === undefined ? "" : short(megabytes(point.kvBytes)),
        short(megabytes(point.residentBytes.median)),
      ]),
    );
    console.log(table(head, rows, 2));
    const ratios = ratiosOf(group).map(
      ({ what, history, ratio }) => `  ${what}, at ${tokens(history)}: ${short(ratio)}x`,
    );
    if (ratios.length > 0) console.log(ratios.join("\n"));
    for (const record of group.records) {
      const share = residentToStated(record);
      if (share !== undefined)
        console.log(
          `  ${seriesName(record)}: resident peak is ${short(100 * share)} % of what engine.memory() states`,
        );
    }
  }
  if (result.neighbour) {
    const { model, threads, alone, beside, ratio } = result.neighbour;
    console.log(
      `\n${model}, ${threadsText(threads)}: decode ${range(alone)} tokens/s alone, ${range(beside)} beside a busy process: ${short(100 * ratio)} %`,
    );
  }
  const { before, after } = result.loadAverage;
  console.log(`\nLoad average ${before.join(" ")} before, ${after.join(" ")} after`);
}
