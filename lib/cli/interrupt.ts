/** The reason of a call that a signal ended; `exitCode` is what a shell expects then. */
export class Interrupted extends Error {
  readonly signal: "SIGINT" | "SIGTERM";

  constructor(signal: "SIGINT" | "SIGTERM") {
    super(`interrupted by ${signal}`);
    this.signal = signal;
  }

  get exitCode(): number {
    return this.signal === "SIGINT" ? 130 : 143;
  }
}

/** Work under way, the innermost last. */
const scopes: AbortController[] = [];

/**
 * Runs work that Ctrl-C aborts through its signal, so that memory is given back and the terminal left as it was. Of
 * nested work only the innermost is aborted. A second Ctrl-C does not wait.
 */
export async function interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const scope = new AbortController();
  if (scopes.length === 0) {
    process.on("SIGINT", interrupt);
    process.on("SIGTERM", terminate);
  }
  scopes.push(scope);
  try {
    return await work(scope.signal);
  } finally {
    scopes.splice(scopes.indexOf(scope), 1);
    if (scopes.length === 0) {
      process.off("SIGINT", interrupt);
      process.off("SIGTERM", terminate);
    }
  }
}

function interrupt(): void {
  const reason = new Interrupted("SIGINT");
  const innermost = scopes.at(-1);
  if (innermost === undefined || innermost.signal.aborted) process.exit(reason.exitCode);
  innermost.abort(reason);
}

function terminate(): void {
  const reason = new Interrupted("SIGTERM");
  for (const scope of scopes) scope.abort(reason);
}
