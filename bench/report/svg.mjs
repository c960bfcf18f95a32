// Axes, scales and marks of a plot, as SVG text. Colours come from the page's style sheet.
import { plain } from "./numbers.mjs";

export const escapeText = (text) =>
  String(text).replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);

const at = (value) => value.toFixed(1);

/** Ticks of a linear axis from 0: four to six round steps. */
function linearTicks(high) {
  const rough = high / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough) * power;
  const ticks = [];
  for (let tick = 0; tick < high + step; tick += step) ticks.push(tick);
  return ticks;
}

/** @returns a function from values to positions, with the ticks it shows */
export function linearScale(high, begin, end) {
  const ticks = linearTicks(high > 0 ? high : 1);
  const top = ticks.at(-1);
  return { map: (value) => begin + (value / top) * (end - begin), ticks, format: plain };
}

export function logScale(low, high, begin, end, { base = 10, format = plain } = {}) {
  const log = (value) => Math.log(value) / Math.log(base);
  const first = Math.floor(log(low) + 1e-9);
  const last = Math.max(Math.ceil(log(high) - 1e-9), first + 1);
  const ticks = Array.from({ length: last - first + 1 }, (_, i) => base ** (first + i));
  return { map: (value) => begin + ((log(value) - first) / (last - first)) * (end - begin), ticks, format };
}

/** Positions of measured values only, evenly apart: histories are chosen, not sampled. */
export function pointScale(values, begin, end, format) {
  const step = values.length > 1 ? (end - begin) / (values.length - 1) : 0;
  return { map: (value) => begin + values.indexOf(value) * step, ticks: values, format };
}

export function axes({ x, y, box, xLabel, yLabel }) {
  const parts = [];
  for (const tick of y.ticks) {
    const py = at(y.map(tick));
    parts.push(`<line class="grid" x1="${box.left}" x2="${box.right}" y1="${py}" y2="${py}"/>`);
    parts.push(
      `<text class="tick" x="${box.left - 6}" y="${py}" dy="0.35em" text-anchor="end">${y.format(tick)}</text>`,
    );
  }
  for (const tick of x.ticks) {
    const px = at(x.map(tick));
    parts.push(`<line class="axis" x1="${px}" x2="${px}" y1="${box.bottom}" y2="${box.bottom + 4}"/>`);
    parts.push(
      `<text class="tick" x="${px}" y="${box.bottom + 17}" text-anchor="middle">${x.format(tick)}</text>`,
    );
  }
  parts.push(`<line class="axis" x1="${box.left}" x2="${box.right}" y1="${box.bottom}" y2="${box.bottom}"/>`);
  const middle = (box.left + box.right) / 2;
  parts.push(
    `<text class="label" x="${at(middle)}" y="${box.bottom + 35}" text-anchor="middle">${escapeText(xLabel)}</text>`,
  );
  parts.push(
    `<text class="label" x="${box.left - 6}" y="${box.top - 12}" text-anchor="start">${escapeText(yLabel)}</text>`,
  );
  return parts.join("");
}

/** As many as the style sheet has; marks of one colour differ in their shape. */
export const COLOURS = 10;
/** The class of a series' colour. */
export const colour = (style) => `s${style % COLOURS}`;

/** A mark of one of four shapes, with the text that shows when the pointer rests on it. */
export function mark(x, y, style, title, size = 4) {
  const [px, py] = [at(x), at(y)];
  const d = size * 1.2;
  const shapes = [
    `<circle cx="${px}" cy="${py}" r="${size}"/>`,
    `<rect x="${at(x - size)}" y="${at(y - size)}" width="${2 * size}" height="${2 * size}"/>`,
    `<path d="M${px} ${at(y - d)} L${at(x + d)} ${at(y + size)} L${at(x - d)} ${at(y + size)} Z"/>`,
    `<path d="M${px} ${at(y - d)} L${at(x + d)} ${py} L${px} ${at(y + d)} L${at(x - d)} ${py} Z"/>`,
  ];
  return `<g class="mark ${colour(style)}">${shapes[style % shapes.length]}<circle class="touch" cx="${px}" cy="${py}" r="10"><title>${escapeText(title)}</title></circle></g>`;
}

export const line = (points, className) =>
  `<polyline class="${className}" points="${points.map(([x, y]) => `${at(x)},${at(y)}`).join(" ")}"/>`;

/** Labels at the right end of lines, moved apart where they would touch. */
export function endLabels(labels, x, box) {
  const gap = 14;
  const sorted = [...labels].sort((a, b) => a.y - b.y);
  let previous = box.top - gap;
  for (const label of sorted) {
    label.y = Math.max(label.y, previous + gap);
    previous = label.y;
  }
  const over = previous - box.bottom;
  if (over > 0) for (const label of sorted) label.y -= over;
  return sorted
    .map(
      ({ text, y, style }) =>
        `<text class="end${style === undefined ? "" : ` ${colour(style)}`}" x="${at(x)}" y="${at(y)}" dy="0.35em">${escapeText(text)}</text>`,
    )
    .join("");
}

export const svg = (width, height, className, title, body) =>
  `<svg class="${className}" viewBox="0 0 ${width} ${height}" role="img" aria-label="${escapeText(title)}">${body}</svg>`;
