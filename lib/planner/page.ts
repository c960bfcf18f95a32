import type { MicroBatch, PlannedGroup, SequenceParallelPlan } from "./types.js";

/** What a page says besides the plan. */
export interface PageFacts {
  readonly title: string;
  /** Sentences above the chart. */
  readonly summary: readonly string[];
}

/** As many degrees as have a colour of their own; from 4096 devices on two share one. */
const COLOURS = 12;
/** Outlines of more devices than these would cover them. */
const MOST_OUTLINED = 128;
const HEIGHT = 480;
const WIDTH = 1000;

const escapeText = (text: string) =>
  text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c] as string);

/** A plan as one HTML document that fetches and runs nothing: devices against time, and a table of groups. */
export function planPage(plan: SequenceParallelPlan, { title, summary }: PageFacts): string {
  const degrees = [...new Set(plan.microBatches.flatMap(({ groups }) => groups.map(({ degree }) => degree)))];
  const legend = degrees
    .sort((a, b) => b - a)
    .map((degree) => `<li><span class="${colour(degree)}"></span>${devicesText(degree)}</li>`);
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escapeText(title)}</title><style>${STYLE}</style></head><body><main>
<h1>${escapeText(title)}</h1>
${summary.map((sentence) => `<p>${escapeText(sentence)}</p>`).join("\n")}
<h2>Devices over time</h2>
<ul class="legend">${legend.join("")}<li><span class="idle"></span>waiting</li></ul>
<div class="chart"><div class="axis"><span>device 0</span><span>${plan.devices - 1}</span></div>
${gantt(plan)}
<div></div><div class="time"><span>0 s</span><span>${seconds(plan.ms / 2)}</span><span>${seconds(plan.ms)}</span></div></div>
<p class="soft">Each field is a group of devices that shares its sequences; dark lines divide micro-batches, which run one after another. Groups wait for the slowest of their micro-batch.</p>
${plan.microBatches.map((batch, b) => batchTable(batch, b, plan.microBatches.length)).join("\n")}
</main></body></html>
`;
}

function gantt({ devices, ms, microBatches }: SequenceParallelPlan): string {
  const x = (time: number) => ((time / ms) * WIDTH).toFixed(2);
  const y = (device: number) => ((device / devices) * HEIGHT).toFixed(2);
  let begin = 0;
  // Above all fields, or the next micro-batch would cover them.
  const ends: string[] = [];
  const fields = microBatches.map((batch) => {
    const groups = batch.groups.map((group) => {
      const place = `x="${x(begin)}" y="${y(group.firstDevice)}" height="${y(group.degree)}"`;
      const about = `${devicesText(group.degree)} from ${group.firstDevice} on, ${sequencesText(group)}, ${group.tokens} tokens, ${Math.round(group.ms)} ms`;
      return `<rect class="idle" ${place} width="${x(batch.ms)}"/><rect class="group ${colour(group.degree)}" ${place} width="${x(group.ms)}"><title>${about}</title></rect>`;
    });
    begin += batch.ms;
    ends.push(`<line class="end" x1="${x(begin)}" x2="${x(begin)}" y1="0" y2="${HEIGHT}"/>`);
    return groups.join("");
  });
  return `<svg${devices > MOST_OUTLINED ? ' class="many"' : ""} viewBox="0 0 ${WIDTH} ${HEIGHT}" preserveAspectRatio="none" role="img" aria-label="Groups of devices over time">${fields.join("")}${ends.join("")}</svg>`;
}

function batchTable({ groups, tokens, ms }: MicroBatch, index: number, count: number): string {
  const rows = groups.map((group) => {
    const cells = [
      String(group.firstDevice),
      String(group.degree),
      group.degree === 1
        ? "none"
        : group.attention === "hybrid"
          ? `hybrid ${group.ulysses}x${group.ring}`
          : group.attention,
      String(group.sequences.length),
      String(group.tokens),
      String(Math.round(group.ms)),
    ];
    return `<tr>${cells.map((cell) => `<td>${cell}</td>`).join("")}</tr>`;
  });
  const head = ["first device", "degree", "attention", "sequences", "tokens", "ms"];
  return `<details${count <= 2 ? " open" : ""}><summary>Micro-batch ${index + 1} of ${count}: ${tokens} tokens in ${Math.round(ms)} ms</summary>
<div class="scroll"><table><thead><tr>${head.map((cell) => `<th>${cell}</th>`).join("")}</tr></thead><tbody>${rows.join("")}</tbody></table></div></details>`;
}

const colour = (degree: number) => `d${Math.log2(degree) % COLOURS}`;
const devicesText = (count: number) => `${count} device${count === 1 ? "" : "s"}`;
const sequencesText = ({ sequences }: PlannedGroup) =>
  sequences.length === 1 ? "1 sequence" : `${sequences.length} sequences`;
const seconds = (ms: number) => `${(ms / 1000).toFixed(2)} s`;

const HUES = [
  "6b7280",
  "2a78d6",
  "0b7f5b",
  "c2570c",
  "7a4fc4",
  "c8324a",
  "7d7400",
  "0d7f93",
  "b0439c",
  "8a5a2b",
  "4b6fae",
  "3f8f3f",
];

const STYLE = `
:root { color-scheme: light dark; --page: #fcfcfb; --ink: #1c1b19; --soft: #5e5d58; --faint: #e4e3de; }
@media (prefers-color-scheme: dark) { :root { --page: #191918; --ink: #f2f1ec; --soft: #b5b4ac; --faint: #33322f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums; }
main { max-width: 1060px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 8px; }
h2 { font-size: 1.2rem; margin: 32px 0 8px; }
p { margin: 4px 0 12px; max-width: 70ch; }
.soft { color: var(--soft); font-size: .9rem; }
.chart { display: grid; grid-template-columns: auto 1fr; gap: 4px 8px; }
.chart svg { width: 100%; height: min(60vh, 480px); display: block; }
.axis { display: flex; flex-direction: column; justify-content: space-between; text-align: right; }
.time { display: flex; justify-content: space-between; }
.axis, .time { font-size: .8rem; color: var(--soft); }
.group { stroke: var(--page); stroke-width: 1; vector-effect: non-scaling-stroke; }
.many .group { stroke: none; }
.end { stroke: var(--ink); stroke-width: 2; vector-effect: non-scaling-stroke; }
.idle { fill: var(--faint); background: var(--faint); }
${HUES.map((hue, i) => `.d${i} { fill: #${hue}; background: #${hue}; }`).join("\n")}
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; list-style: none; margin: 4px 0 12px; padding: 0; font-size: .9rem; }
.legend span { display: inline-block; width: 12px; height: 12px; margin-right: 6px; vertical-align: -1px; }
details { margin: 12px 0; } summary { cursor: pointer; font-weight: 600; padding: 8px 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .84rem; width: 100%; max-width: 640px; }
th, td { text-align: right; padding: 3px 7px; white-space: nowrap; border-bottom: 1px solid var(--faint); }
th { color: var(--soft); font-weight: 600; }
`;
