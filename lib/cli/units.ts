/** Bytes as people read them: `1.4 MiB`. */
export function formatBytes(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || value >= 100 ? 0 : 1;
  return `${value.toFixed(digits)} ${units[unit]}`;
}

/** A duration as people read it: `8 ms`, `1.3 s`. */
export function formatDuration(milliseconds: number): string {
  if (milliseconds < 1000)
    return `${milliseconds < 10 ? milliseconds.toFixed(1) : Math.round(milliseconds)} ms`;
  return `${(milliseconds / 1000).toFixed(1)} s`;
}

/** Tokens per second, or null when too little was measured to divide. */
export function tokenRate(tokens: number, milliseconds: number): number | null {
  return tokens > 0 && milliseconds > 0 ? (tokens * 1000) / milliseconds : null;
}

/** A rate as people read it: `310 tokens/s`. */
export function formatRate(tokensPerSecond: number): string {
  return `${tokensPerSecond >= 100 ? Math.round(tokensPerSecond) : tokensPerSecond.toFixed(1)} tokens/s`;
}

/** `1 token`, `2 tokens`. */
export function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}
