// The plots of the page.
import { ceilingText, duration, short, tokens } from "./numbers.mjs";
import {
  axes,
  colour,
  endLabels,
  escapeText,
  line,
  linearScale,
  logScale,
  mark,
  pointScale,
  svg,
} from "./svg.mjs";

const boxOf = (width, height, { left = 52, right = 16, top = 30, bottom = 44 } = {}) => ({
  left,
  top,
  right: width - right,
  bottom: height - bottom,
});

/** How the values of the x axis are placed: evenly apart, by their logarithm, or as they are. */
function xScale({ kind, values, format }, begin, end) {
  const sorted = [...new Set(values)].sort((a, b) => a - b);
  const [low, high] = [sorted[0], sorted.at(-1)];
  if (kind === "log") return logScale(low, high, begin, end, { base: high / low > 64 ? 8 : 2, format });
  if (kind === "linear") return { ...linearScale(high, begin, end), format };
  return pointScale(sorted, begin + 14, end - 10, format);
}

/** Room for names at the ends of lines, in the plot's own units. */
const nameRoom = (names) => Math.max(92, 10 + 7.8 * Math.max(...names.map((name) => name.length)));

/**
 * Lines over a common axis, each named at its right end.
 * @param {{ title: string, yLabel: string, yFormat?: (value: number) => string,
 *   x: { label: string, kind?: "points" | "log" | "linear", format: (value: number) => string },
 *   reference?: { name: string, value: number }, named?: boolean,
 *   series: { name: string, style: number, marks?: boolean,
 *     points: { x: number, value: number, low?: number, high?: number, text?: string }[] }[] }} plot
 *   `reference` is a dashed line across; `low` and `high` are a spread; `text` shows when the pointer rests on a mark.
 *   `named: false` leaves the names to a legend, where lines end in different places
 */
export function linePlot({ title, yLabel, yFormat, x: axis, reference, series, named = true }) {
  const names = [...series.map(({ name }) => name), ...(reference ? [reference.name] : [])];
  const right = named ? nameRoom(names) : 24;
  const [width, height] = [named ? 338 + right : 430, Math.max(270, 84 + 15 * names.length)];
  const box = boxOf(width, height, { right });
  const all = series.flatMap(({ points }) => points);
  const x = xScale({ ...axis, values: all.map((point) => point.x) }, box.left, box.right);
  const highest = Math.max(reference?.value ?? 0, ...all.map(({ value, high }) => high ?? value));
  const y = linearScale(highest, box.bottom, box.top);
  if (yFormat !== undefined) y.format = yFormat;
  const parts = [axes({ x, y, box, xLabel: axis.label, yLabel })];
  const labels = [];
  if (reference) {
    const py = y.map(reference.value);
    parts.push(
      line(
        [
          [box.left, py],
          [box.right, py],
        ],
        "roof dashed",
      ),
    );
    labels.push({ text: reference.name, y: py });
  }
  for (const { name, style, marks = true, points } of series) {
    const place = points.map((point) => [x.map(point.x), y.map(point.value)]);
    for (const [index, { low, high }] of points.entries()) {
      if (low === undefined) continue;
      const [px] = place[index];
      parts.push(
        line(
          [
            [px, y.map(low)],
            [px, y.map(high)],
          ],
          `spread ${colour(style)}`,
        ),
      );
    }
    parts.push(line(place, `line ${colour(style)}`));
    if (marks) parts.push(...points.map(({ text }, i) => mark(...place[i], style, text)));
    labels.push({ text: name, y: place.at(-1)[1], style });
  }
  if (named) parts.push(endLabels(labels, box.right + 4, box));
  return svg(width, height, "plot", title, parts.join(""));
}

/**
 * Something against the length of the history.
 * @param {{ title: string, yLabel: string, series: { name: string, style: number,
 *   points: { history: number, value: number, low: number, high: number }[] }[] }} plot
 */
export function historyPlot({ series, ...plot }) {
  const named = series.map(({ name, style, points }) => ({
    name,
    style,
    points: points.map(({ history, value, low, high }) => ({
      x: history,
      value,
      low,
      high,
      text: `${name}, ${tokens(history)} tokens: ${short(value)} (${short(low)} to ${short(high)})`,
    })),
  }));
  return linePlot({ ...plot, x: { label: "tokens of history", format: tokens }, series: named });
}

const PRODUCTS = ["gemm", "expert_shrink", "expert_expand", "expert_backward", "linear_backward"];
const ATTENTION = ["attention", "score_keys", "dense_attention", "dense_attention_backward"];

/** Which of three kinds an op is of, for its mark. */
export const OP_KINDS = ["matrix products", "attention and scoring", "everything else"];
export const kindOf = ({ op }) => (PRODUCTS.includes(op) ? 0 : ATTENTION.includes(op) ? 1 : 2);

const titleOf = (op) =>
  `${op.op} ${op.case}, ${op.model} ${op.dtype}: ${duration(op.median_s)}, ${short(op.percent)} % of ${ceilingText(op.bound)}`;

/** Rates against arithmetic intensity, under the roofs that the same run measured. */
export function rooflinePlot({ ops, ceilings, threads, narrow }) {
  const [width, height] = narrow ? [390, 400] : [820, 420];
  const box = boxOf(width, height, { right: 20, top: 36 });
  const shown = ops.filter((op) => op.flops > 0 && op.threads === threads);
  const roofs = ceilings.filter((ceiling) => ceiling.threads === threads);
  const best = (name) => roofs.find((ceiling) => ceiling.name === name)?.best;
  const peaks = ["bf16", "f32"].flatMap((kind) => {
    const candidates = roofs.filter(({ name }) => name.startsWith(`${kind}.`)).map((ceiling) => ceiling.best);
    return candidates.length === 0 ? [] : [{ name: `${kind} multiply-add`, rate: Math.max(...candidates) }];
  });
  const reads = [
    { name: "memory", rate: best("read.memory"), className: "roof" },
    { name: "a core's cache", rate: best("read.cache"), className: "roof dashed" },
  ].filter(({ rate }) => rate !== undefined);
  const top = Math.max(...peaks.map(({ rate }) => rate));
  const intensities = shown.map((op) => op.flops / op.bytes);
  const rates = shown.map((op) => op.flops_per_s / 1e9);
  const x = logScale(Math.min(...intensities), Math.max(...intensities, 100), box.left, box.right);
  const y = logScale(Math.min(...rates), (top / 1e9) * 1.2, box.bottom, box.top);
  const [xLow, xHigh] = [x.ticks[0], x.ticks.at(-1)];
  const floor = y.ticks[0] * 1e9;
  const parts = [axes({ x, y, box, xLabel: "FLOP per byte", yLabel: "GFLOP/s" })];
  for (const { name, rate, className } of reads) {
    const from = Math.max(xLow, floor / rate);
    const to = Math.min(xHigh, top / rate);
    const ends = [from, to].map((intensity) => [x.map(intensity), y.map((intensity * rate) / 1e9)]);
    parts.push(line(ends, className));
    const slope = (Math.atan2(ends[1][1] - ends[0][1], ends[1][0] - ends[0][0]) * 180) / Math.PI;
    const [mx, my] = [(2 * ends[0][0] + ends[1][0]) / 3, (2 * ends[0][1] + ends[1][1]) / 3];
    const text = `${name} ${short(rate / 1e9)} GB/s`;
    parts.push(
      `<text class="roof-label" transform="translate(${mx.toFixed(1)} ${my.toFixed(1)}) rotate(${slope.toFixed(1)})" dy="-5" text-anchor="middle">${escapeText(text)}</text>`,
    );
  }
  const knee = best("read.memory");
  peaks.forEach(({ name, rate }, index) => {
    const py = y.map(rate / 1e9);
    const from = knee === undefined ? xLow : Math.max(rate / knee, xLow);
    parts.push(
      line(
        [
          [x.map(from), py],
          [box.right, py],
        ],
        "roof",
      ),
    );
    const dy = index === 0 ? -5 : 13;
    parts.push(
      `<text class="roof-label" x="${box.right}" y="${py.toFixed(1)}" dy="${dy}" text-anchor="end">${escapeText(`${name} ${short(rate / 1e9)} GFLOP/s`)}</text>`,
    );
  });
  for (const op of shown) {
    parts.push(mark(x.map(op.flops / op.bytes), y.map(op.flops_per_s / 1e9), kindOf(op), titleOf(op), 3.5));
  }
  return svg(
    width,
    height,
    `plot ${narrow ? "narrow" : "wide"}`,
    `Roofline, threads: ${threads}`,
    parts.join(""),
  );
}

/** For each op the share of its ceiling that each case reaches. */
export function sharePlot({ ops, threads, narrow }) {
  const shown = ops.filter((op) => op.threads === threads);
  const names = [...new Set(shown.map(({ op }) => op))];
  const width = narrow ? 390 : 820;
  const height = 90 + 22 * names.length;
  const box = boxOf(width, height, { left: 104, right: 20, top: 22 });
  const high = Math.max(100, ...shown.map(({ percent }) => percent));
  const x = linearScale(high, box.left, box.right);
  x.format = (tick) => `${tick} %`;
  const row = (name) => box.top + 12 + 22 * names.indexOf(name);
  const y = { map: row, ticks: names, format: escapeText };
  const parts = [axes({ x, y, box, xLabel: "share of the ceiling that binds the case", yLabel: "" })];
  const full = x.map(100);
  parts.push(
    line(
      [
        [full, box.top],
        [full, box.bottom],
      ],
      "roof",
    ),
  );
  for (const op of shown) parts.push(mark(x.map(op.percent), row(op.op), kindOf(op), titleOf(op), 3.5));
  return svg(
    width,
    height,
    `plot ${narrow ? "narrow" : "wide"}`,
    `Share of the ceiling, threads: ${threads}`,
    parts.join(""),
  );
}
