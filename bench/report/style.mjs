// The page's look, light and dark.
export const STYLE = `
:root { color-scheme: light dark;
  --page: #fcfcfb; --ink: #1c1b19; --soft: #5e5d58; --faint: #e4e3de; --axis: #a3a29b;
  --s0: #2a78d6; --s1: #c2570c; --s2: #0b7f5b; --s3: #7a4fc4; }
@media (prefers-color-scheme: dark) { :root {
  --page: #191918; --ink: #f2f1ec; --soft: #b5b4ac; --faint: #33322f; --axis: #6f6e68;
  --s0: #5b9df0; --s1: #ee8a4a; --s2: #3fbf92; --s3: #ab8cf0; } }
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
svg .end { font-weight: 600; }
.grid { stroke: var(--faint); } .axis { stroke: var(--axis); }
.line { fill: none; stroke-width: 2; } .spread { stroke-width: 1; opacity: .6; }
.roof { fill: none; stroke: var(--ink); stroke-width: 1.5; } .dashed { stroke-dasharray: 5 4; stroke: var(--axis); }
.roof-label { paint-order: stroke; stroke: var(--page); stroke-width: 4px; }
.s0 { fill: var(--s0); stroke: var(--s0); } .s1 { fill: var(--s1); stroke: var(--s1); }
.s2 { fill: var(--s2); stroke: var(--s2); } .s3 { fill: var(--s3); stroke: var(--s3); }
svg text.s0, svg text.s1, svg text.s2, svg text.s3 { stroke: none; }
svg text.s0 { fill: var(--s0); } svg text.s1 { fill: var(--s1); }
svg text.s2 { fill: var(--s2); } svg text.s3 { fill: var(--s3); }
.line.s0, .line.s1, .line.s2, .line.s3 { fill: none; }
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
