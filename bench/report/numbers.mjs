// Numbers as people read them.

/** Three significant digits, without an exponent. */
export function short(value) {
  if (value === 0) return "0";
  if (!Number.isFinite(value)) return "-";
  const digits = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
  return value.toFixed(Math.min(digits, 6));
}

/** As `short`, without zeros that say nothing: for round numbers. */
export const plain = (value) => String(Number(short(value)));

export const grouped = (value) => Math.round(value).toLocaleString("en-US");

export const megabytes = (bytes) => bytes / 1e6;

/** Bytes with a fitting unit. */
export function binaryBytes(bytes) {
  const power = Math.min(3, Math.floor(Math.log2(Math.max(1, bytes)) / 10));
  return `${plain(bytes / 1024 ** power)} ${["B", "KiB", "MiB", "GiB"][power]}`;
}

/** 1024 is 1k. */
export const tokens = (count) => (count >= 1024 && count % 1024 === 0 ? `${count / 1024}k` : String(count));

/** Seconds with a fitting unit. */
export function duration(seconds) {
  if (seconds < 1e-3) return `${short(seconds * 1e6)} µs`;
  return seconds < 1 ? `${short(seconds * 1e3)} ms` : `${short(seconds)} s`;
}

export const percent = (share) => (share === undefined ? "" : `${short(share)} %`);

/** What a run may be told apart by. */
export const seriesName = ({ engine, memory }) => (engine === "longhaul" ? `longhaul, ${memory}` : engine);

/** A ceiling's name in a sentence. */
export function ceilingText(name) {
  if (name === "read.memory") return "the read rate of memory";
  if (name === "read.shared-cache") return "the read rate of the shared cache";
  if (name === "read.cache") return "the read rate of a core's cache";
  return `the ${name.split(".")[0]} multiply-add rate`;
}
