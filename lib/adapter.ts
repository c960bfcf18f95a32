import { invalidOption, LonghaulError, throwIfAborted } from "./errors.js";
import type { TaskRunner } from "./tasks.js";

export interface LoadAdapterOptions {
  /** Aborts the call while it waits for its turn; it then rejects with the signal's reason. */
  readonly signal?: AbortSignal;
}

/** What an engine knows of an adapter, and nobody else. */
interface Loaded {
  readonly runner: TaskRunner;
  readonly id: number;
}

const loaded = new WeakMap<Adapter, Loaded>();

/**
 * An adapter on the engine's device: a LoRA, or a mixture of LoRA experts. It lives until it is disposed of;
 * conversations that use it then keep it until they are disposed of themselves.
 */
export class Adapter {
  /** On the device. */
  readonly bytes: number;
  #disposal: Promise<void> | undefined;

  /** @internal Made by `Engine.loadAdapter`. */
  constructor(runner: TaskRunner, id: number, bytes: number) {
    this.bytes = bytes;
    loaded.set(this, { runner, id });
  }

  get disposed(): boolean {
    return this.#disposal !== undefined;
  }

  /** No new conversation can use it. */
  dispose(): Promise<void> {
    this.#disposal ??= release(loaded.get(this) as Loaded);
    return this.#disposal;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }
}

export async function loadAdapter(
  runner: TaskRunner,
  directory: string,
  signal: AbortSignal | undefined,
): Promise<Adapter> {
  const event = await runner.run((native) => native.loadAdapter(directory), { signal });
  if (event.finish === "cancelled") throwIfAborted(signal);
  return new Adapter(runner, event.adapter, event.done);
}

/** The number by which the addon knows an adapter of this engine; 0 for none. */
export function adapterId(adapter: Adapter | undefined, runner: TaskRunner): number {
  if (adapter === undefined) return 0;
  const known = adapter instanceof Adapter ? loaded.get(adapter) : undefined;
  if (known === undefined || known.runner !== runner) {
    throw invalidOption("adapter", "an adapter that this engine's loadAdapter gave", adapter);
  }
  if (adapter.disposed) throw new LonghaulError("ERR_DISPOSED", "the adapter was disposed of; load it again");
  return known.id;
}

async function release({ runner, id }: Loaded): Promise<void> {
  if (runner.disposed) return;
  try {
    await runner.run((native) => native.releaseAdapter(id));
  } catch (error) {
    // An engine that goes away takes its adapters along.
    if (!(error instanceof LonghaulError) || error.code !== "ERR_DISPOSED") throw error;
  }
}
