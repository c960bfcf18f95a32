import { LonghaulError } from "./errors.js";
import { callNative, type NativeEngine, type NativeEngineOptions, type NativeEvent } from "./native.js";

interface Pending {
  readonly onEvent: ((event: NativeEvent) => void) | undefined;
  resolve(event: NativeEvent): void;
  reject(error: unknown): void;
  /** What `onEvent` threw: the task is cancelled and fails with it. */
  thrown?: { readonly error: unknown };
}

/** How a task is followed. */
export interface TaskOptions {
  readonly signal?: AbortSignal | undefined;
  /** Called for "progress" and "tokens", in order. */
  readonly onEvent?: (event: NativeEvent) => void;
}

/** The tasks of one native engine: starts them, hands out their events, settles their promises. */
export class TaskRunner {
  readonly #native: NativeEngine;
  readonly #pending = new Map<number, Pending>();
  #disposed: Promise<void> | undefined;

  /** Starts the engine; the promise of `loaded` is its task 0. */
  static start(
    options: NativeEngineOptions,
    follow: TaskOptions,
  ): { runner: TaskRunner; loaded: Promise<NativeEvent> } {
    const runner = new TaskRunner(options);
    return { runner, loaded: runner.run(() => 0, follow) };
  }

  private constructor(options: NativeEngineOptions) {
    this.#native = callNative((addon) => new addon.NativeEngine(options, (events) => this.#deliver(events)));
  }

  get disposed(): boolean {
    return this.#disposed !== undefined;
  }

  /** Calls the native engine; `run` is for what starts a task. Its errors come out as LonghaulErrors. */
  call<T>(use: (native: NativeEngine) => T): T {
    if (this.disposed) throw disposedError();
    return callNative(() => use(this.#native));
  }

  /**
   * Starts a task and resolves with its last event. When the signal aborts, the task is cancelled; the promise
   * settles once the engine has stopped working on it, and resolves: whoever asks looks at the signal.
   */
  async run(
    start: (native: NativeEngine) => number,
    { signal, onEvent }: TaskOptions = {},
  ): Promise<NativeEvent> {
    const task = this.call(start);
    const cancel = () => {
      if (!this.disposed) this.#native.cancel(task);
    };
    signal?.addEventListener("abort", cancel);
    try {
      return await new Promise<NativeEvent>((resolve, reject) => {
        this.#pending.set(task, { onEvent, resolve, reject });
        if (signal?.aborted) cancel();
      });
    } finally {
      signal?.removeEventListener("abort", cancel);
    }
  }

  /** Rejects all tasks with ERR_DISPOSED at once; resolves when the engine's thread has ended. */
  dispose(): Promise<void> {
    this.#disposed ??= this.#stop();
    return this.#disposed;
  }

  async #stop(): Promise<void> {
    const stopped = this.#native.dispose();
    for (const pending of this.#pending.values()) pending.reject(disposedError());
    this.#pending.clear();
    await stopped;
  }

  #deliver(events: NativeEvent[]): void {
    for (const event of events) {
      const pending = this.#pending.get(event.task);
      if (pending === undefined) continue;
      if (event.kind === "progress" || event.kind === "tokens") {
        this.#tell(pending, event);
        continue;
      }
      this.#pending.delete(event.task);
      if (pending.thrown !== undefined) pending.reject(pending.thrown.error);
      else if (event.kind === "done") pending.resolve(event);
      else
        pending.reject(new LonghaulError(event.code ?? "ERR_INTERNAL", event.message ?? "the engine failed"));
    }
  }

  #tell(pending: Pending, event: NativeEvent): void {
    if (pending.thrown !== undefined) return;
    try {
      pending.onEvent?.(event);
    } catch (error) {
      pending.thrown = { error };
      if (!this.disposed) this.#native.cancel(event.task);
    }
  }
}

export function disposedError(): LonghaulError {
  return new LonghaulError("ERR_DISPOSED", "the engine was disposed of");
}
