// The parts that every page is made of. Nothing is fetched, nothing is run.
import { short } from "./numbers.mjs";
import { STYLE } from "./style.mjs";
import { escapeText as e, mark } from "./svg.mjs";

/**
 * @param {(string | number | { percent: number, text?: string })[][]} rows an object is a bar, of `percent` of its cell
 * @param {number} textColumns the first so many columns hold text
 */
export function table(caption, head, rows, textColumns = 1) {
  const cell = (tag, value, index) =>
    typeof value === "object"
      ? `<td class="bar" style="--share:${Math.min(100, value.percent).toFixed(1)}%">${e(value.text ?? `${short(value.percent)} %`)}</td>`
      : `<${tag}${index < textColumns ? ' class="text"' : ""}>${e(value)}</${tag}>`;
  const body = rows.map((row) => `<tr>${row.map((value, index) => cell("td", value, index)).join("")}</tr>`);
  const header = head.map((value, index) => cell("th", value, index)).join("");
  return `<div class="scroll"><table><caption>${e(caption)}</caption><thead><tr>${header}</tr></thead><tbody>${body.join("")}</tbody></table></div>`;
}

/** What marks stand for, in the order of their styles. */
export function legend(names) {
  const items = names.map(
    (name, index) => `<li><svg viewBox="0 0 14 14">${mark(7, 7, index, name, 5)}</svg>${e(name)}</li>`,
  );
  return `<ul class="legend">${items.join("")}</ul>`;
}

export const figure = (caption, plot) => `<figure><figcaption>${e(caption)}</figcaption>${plot}</figure>`;
export const figures = (list) => `<div class="figures">${list.join("")}</div>`;

/** When and on what: processor, memory, system, never a name. */
export const machineText = ({ machine, date }) =>
  `${machine.cpu}, ${machine.cores} cores, ${short(machine.memoryBytes / 2 ** 30)} GiB, ${machine.features.join(" ")}. ${machine.system}, Node ${machine.node}. ${date.slice(0, 16).replace("T", " ")} UTC`;

/** @param {{ title: string, heading: string, subtitle: string, body: string }} page `body` is HTML, the others are text */
export const htmlDocument = ({ title, heading, subtitle, body }) => `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>${e(title)}</title><style>${STYLE}</style></head><body><main>
<h1>${e(heading)}</h1>
<p class="soft">${e(subtitle)}</p>
${body}
</main></body></html>
`;
