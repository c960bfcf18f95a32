// The page's look, light and dark.
import { COLOURS, colour } from "./svg.mjs";

const colours = Array.from({ length: COLOURS }, (_, style) => colour(style));

export const STYLE = `
:root { color-scheme: light dark;
  --page: #fcfcfb; --ink: #1c1b19; --soft: #5e5d58; --faint: #e4e3de; --axis: #a3a29b;
  --s0: #2a78d6; --s1: #c2570c; --s2: #0b7f5b; --s3: #7a4fc4; --s4: #c8324a;
  --s5: #7d7400; --s6: #0d7f93; --s7: #b0439c; --s8: #8a5a2b; --s9: #6b7280; }
@media (prefers-color-scheme: dark) { :root {
  --page: #191918; --ink: #f2f1ec; --soft: #b5b4ac; --faint: #33322f; --axis: #6f6e68;
  --s0: #5b9df0; --s1: #ee8a4a; --s2: #3fbf92; --s3: #ab8cf0; --s4: #f2788a;
  --s5: #c6b93a; --s6: #45b8cc; --s7: #e58bd4; --s8: #cf9f6e; --s9: #9aa3b2; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums; }
main { max-width: 1060px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 4px; }
h2 { font-size: 1.2rem; margin: 40px 0 8px; }
h3 { font-size: 1rem; font-weight: 600; margin: 20px 0 0; }
p { margin: 4px 0 12px; max-width: 70ch; }
.soft, caption { color: var(--soft); }
.figures { display: grid; gap: 8px 24px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); }
figure { margin: 0; min-width: 0; }
figcaption { font-weight: 600; margin-top: 12px; }
.plot { display: block; width: 100%; height: auto; }
.figures .plot { max-width: 520px; }
.narrow { display: none; }
@media (max-width: 640px) { .wide { display: none; } .narrow { display: block; } }
svg text { font: 12px system-ui, sans-serif; fill: var(--soft); font-variant-numeric: tabular-nums; }
${colours.map((name) => `.${name} { fill: var(--${name}); stroke: var(--${name}); }`).join("\n")}
svg .end { font-weight: 600; stroke: none; }
.grid { stroke: var(--faint); } .axis { stroke: var(--axis); }
.line { fill: none; stroke-width: 2; } .spread { stroke-width: 1; opacity: .6; }
.roof { fill: none; stroke: var(--ink); stroke-width: 1.5; } .dashed { stroke-dasharray: 5 4; stroke: var(--axis); }
.roof-label { paint-order: stroke; stroke: var(--page); stroke-width: 4px; }
.mark { stroke: var(--page); stroke-width: 1; } .touch { fill: transparent; stroke: none; }
.mark:hover { stroke: var(--ink); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; list-style: none; margin: 4px 0; padding: 0; font-size: .9rem; }
.legend svg { width: 14px; height: 14px; vertical-align: -2px; margin-right: 6px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .84rem; width: 100%; }
caption { text-align: left; padding: 12px 0 4px; }
th, td { text-align: right; padding: 3px 7px; white-space: nowrap; border-bottom: 1px solid var(--faint); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th { color: var(--soft); font-weight: 600; }
td.text, th.text { text-align: left; }
td.bar { min-width: 110px; background: linear-gradient(var(--faint), var(--faint)) no-repeat left center / var(--share) 70%; }
summary { cursor: pointer; font-weight: 600; padding: 8px 0; }
`;
