import { throwIfAborted } from "./errors.js";

/** What a running operation learns of those behind it. */
export interface Turn {
  /** Resolves when another operation waits. */
  readonly contended: Promise<void>;
}

/** Runs operations one at a time, in the order in which they came. */
export class OperationQueue {
  #last: Promise<void> = Promise.resolve();
  #waiting = 0;
  /** Tells the running operation that another one waits. */
  #hurry: (() => void) | undefined;

  /** Resolves when all operations so far are done. */
  idle(): Promise<void> {
    return this.#last;
  }

  /** Runs `operation` when all before it are done. Rejects with the signal's reason if that aborts earlier. */
  async run<T>(operation: (turn: Turn) => Promise<T>, signal: AbortSignal): Promise<T> {
    throwIfAborted(signal);
    const before = this.#last;
    let done = () => {};
    const finished = new Promise<void>((resolve) => {
      done = resolve;
    });
    // The one behind also waits for those before, should this one give up early.
    this.#last = before.then(() => finished);
    this.#waiting++;
    this.#hurry?.();
    try {
      await settledOrAborted(before, signal);
    } catch (error) {
      done();
      throw error;
    } finally {
      this.#waiting--;
    }
    const contended = new Promise<void>((resolve) => {
      this.#hurry = resolve;
    });
    if (this.#waiting > 0) this.#hurry?.();
    try {
      return await operation({ contended });
    } finally {
      this.#hurry = undefined;
      done();
    }
  }
}

function settledOrAborted(before: Promise<void>, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    signal.addEventListener("abort", abort, { once: true });
    before.then(() => {
      signal.removeEventListener("abort", abort);
      if (signal.aborted) reject(signal.reason);
      else resolve();
    });
  });
}
