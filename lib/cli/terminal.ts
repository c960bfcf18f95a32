import { formatBytes } from "./units.js";

/** Shows how far work has come: one thing at a time, each new label ends the one before. */
export interface Progress {
  update(label: string, done: number, total: number): void;
  /** Takes the bar away, finished or not. */
  close(): void;
}

const PLAIN_INTERVAL_MS = 2000;
const BAR_WIDTH = 28;

/** Writes a line for people: to stderr, so that stdout holds results only. */
export function note(text: string): void {
  process.stderr.write(`${text}\n`);
}

/** `text` in grey where stderr is a terminal that shows colours. */
export function dim(text: string): string {
  return process.stderr.isTTY && !process.env.NO_COLOR && process.env.TERM !== "dumb"
    ? `\u001b[2m${text}\u001b[22m`
    : text;
}

/** A bar on a terminal, else a plain line every two seconds: what is over sooner prints nothing. */
export async function openProgress(unit: "bytes" | "tokens"): Promise<Progress> {
  const amount = (done: number, total: number) =>
    unit === "bytes" ? `${formatBytes(done)} of ${formatBytes(total)}` : `${done} of ${total} tokens`;
  return process.stderr.isTTY ? await bar(amount) : plain(amount);
}

type Amount = (done: number, total: number) => string;

async function bar(amount: Amount): Promise<Progress> {
  const { SingleBar } = (await import("cli-progress")).default;
  const line = new SingleBar({
    format: "{label} [{bar}] {percentage}% {amount}",
    barsize: BAR_WIDTH,
    barCompleteChar: "=",
    barIncompleteChar: " ",
    stream: process.stderr,
    hideCursor: true,
    clearOnComplete: true,
    gracefulExit: false,
  });
  let current = "";
  const close = () => {
    if (current !== "") line.stop();
    current = "";
  };
  return {
    update(label, done, total) {
      if (total <= 0) return;
      if (label !== current) {
        close();
        current = label;
        line.start(total, done, { label, amount: amount(done, total) });
      }
      line.update(done, { amount: amount(done, total) });
    },
    close,
  };
}

function plain(amount: Amount): Progress {
  let last = performance.now();
  return {
    update(label, done, total) {
      if (performance.now() - last < PLAIN_INTERVAL_MS) return;
      last = performance.now();
      note(`${label}: ${amount(done, total)}`);
    },
    close() {},
  };
}
