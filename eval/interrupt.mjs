/** Ctrl-C; a shell expects exit code 130 then. */
export class Interrupted extends Error {
  exitCode = 130;
}

/** A signal that Ctrl-C aborts, so that memory is given back; a second Ctrl-C does not wait. */
export function interruptSignal() {
  const controller = new AbortController();
  process.on("SIGINT", () => {
    if (controller.signal.aborted) process.exit(130);
    controller.abort(new Interrupted("interrupted"));
  });
  return controller.signal;
}
