import { ApiError } from "./errors.js";

interface Waiting {
  admit(): void;
}

/**
 * Lets so many requests in at a time, and so many more wait. Clients that wait get their turns in rotation, so that
 * one with many requests does not keep out one with few.
 */
export class Admission {
  readonly #limit: number;
  readonly #queueLimit: number;
  /** In the order of their turns. */
  readonly #clients = new Map<string, Waiting[]>();
  #running = 0;
  #waiting = 0;
  #idle: (() => void)[] = [];

  constructor(limit: number, queueLimit: number) {
    this.#limit = limit;
    this.#queueLimit = queueLimit;
  }

  get running(): number {
    return this.#running;
  }

  get waiting(): number {
    return this.#waiting;
  }

  /**
   * Resolves with what gives the place back. Rejects with status 429 when too many wait already, and with the signal's
   * reason when it aborts.
   */
  async enter(client: string, signal: AbortSignal): Promise<() => void> {
    signal.throwIfAborted();
    if (this.#running < this.#limit) {
      this.#running++;
    } else {
      if (this.#waiting >= this.#queueLimit) {
        throw new ApiError(429, `${this.#waiting} requests are waiting already: try again later`, {
          type: "rate_limit_error",
          code: "ERR_OVERLOADED",
          retryAfter: 1,
        });
      }
      await this.#wait(client, signal);
    }
    let left = false;
    return () => {
      if (left) return;
      left = true;
      this.#leave();
    };
  }

  /** Resolves when nothing runs and nothing waits. */
  async idle(): Promise<void> {
    if (this.#running === 0) return;
    await new Promise<void>((resolve) => this.#idle.push(resolve));
  }

  #wait(client: string, signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const leave = () => {
        const queue = this.#clients.get(client) ?? [];
        queue.splice(queue.indexOf(waiting), 1);
        if (queue.length === 0) this.#clients.delete(client);
        this.#waiting--;
        signal.removeEventListener("abort", abort);
      };
      const abort = () => {
        leave();
        reject(signal.reason);
      };
      const waiting: Waiting = {
        admit: () => {
          leave();
          resolve();
        },
      };
      const queue = this.#clients.get(client);
      if (queue === undefined) this.#clients.set(client, [waiting]);
      else queue.push(waiting);
      this.#waiting++;
      signal.addEventListener("abort", abort);
    });
  }

  #leave(): void {
    const [next] = this.#clients;
    if (next !== undefined) {
      // The place is handed on; a client that waits with more goes behind the others.
      const [client, queue] = next;
      queue[0]?.admit();
      if (this.#clients.delete(client)) this.#clients.set(client, queue);
      return;
    }
    this.#running--;
    if (this.#running > 0) return;
    for (const resolve of this.#idle) resolve();
    this.#idle = [];
  }
}
