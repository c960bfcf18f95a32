import { Worker } from "node:worker_threads";
import { LonghaulError } from "../errors.js";

/** Minimise cost * x with lower <= x <= upper and rows.lower <= A x <= rows.upper. */
export interface LinearModel {
  readonly columns: { readonly cost: Float64Array; readonly lower: Float64Array; readonly upper: Float64Array };
  readonly rows: { readonly lower: Float64Array; readonly upper: Float64Array };
  /** A by columns. */
  readonly matrix: { readonly starts: Int32Array; readonly indices: Int32Array; readonly values: Float64Array };
  /** 1 for columns that must be integers. */
  readonly integer?: Int32Array;
  /** A feasible solution to begin with. */
  readonly start?: Float64Array;
  readonly seconds?: number;
}

export interface LinearSolution {
  /** "optimal", "infeasible", "time limit", or another end in HiGHS's numbers. */
  readonly status: string;
  readonly objective: number;
  /** Of the columns; all 0 when no solution was found in time. */
  readonly values: Float64Array;
  readonly rowDuals: Float64Array;
}

/** HiGHS in a worker thread, one model at a time. */
export class Solver {
  #worker: Worker | undefined;
  readonly #signal: AbortSignal | undefined;

  constructor(signal?: AbortSignal) {
    this.#signal = signal;
  }

  /** Rejects with the signal's reason when it aborts; the solver is of no use then. */
  solve(model: LinearModel): Promise<LinearSolution> {
    // Only now: most plans of few sequences need no solver, and it takes a while to begin.
    this.#worker ??= new Worker(new URL("./solver-worker.mjs", import.meta.url));
    const worker = this.#worker;
    return new Promise((resolve, reject) => {
      const settle = (finish: () => void) => {
        this.#signal?.removeEventListener("abort", abort);
        worker.off("message", answer);
        worker.off("error", fail);
        finish();
      };
      const abort = () => settle(() => reject(this.#signal?.reason));
      const answer = ({ solution, failure }: { solution?: LinearSolution; failure?: string }) =>
        settle(() => (solution === undefined ? reject(broken(failure as string)) : resolve(solution)));
      const fail = (error: Error) => settle(() => reject(broken(error.message.slice(0, 300), error)));
      if (this.#signal?.aborted) return reject(this.#signal.reason);
      this.#signal?.addEventListener("abort", abort);
      worker.on("message", answer);
      worker.on("error", fail);
      worker.postMessage(model);
    });
  }

  /** Ends the thread, in the middle of a model too. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#worker?.terminate();
  }
}

const broken = (message: string, cause?: Error) =>
  new LonghaulError("ERR_INTERNAL", `the solver failed: ${message}; report it with the lengths and costs`, {
    cause,
  });

/** Collects a model column by column. */
export class ModelBuilder {
  readonly #cost: number[] = [];
  readonly #lower: number[] = [];
  readonly #upper: number[] = [];
  readonly #rowLower: number[] = [];
  readonly #rowUpper: number[] = [];
  readonly #starts: number[] = [0];
  readonly #indices: number[] = [];
  readonly #values: number[] = [];
  readonly #integer: number[] = [];

  /** Returns the row's index. */
  row(lower: number, upper: number): number {
    this.#rowUpper.push(upper);
    return this.#rowLower.push(lower) - 1;
  }

  /** `entries` are pairs of a row and a coefficient. Returns the column's index. */
  column(
    cost: number,
    lower: number,
    upper: number,
    entries: readonly (readonly [number, number])[],
    integer = false,
  ): number {
    for (const [row, value] of entries) {
      if (value === 0) continue;
      this.#indices.push(row);
      this.#values.push(value);
    }
    this.#starts.push(this.#indices.length);
    this.#cost.push(cost);
    this.#lower.push(lower);
    this.#integer.push(integer ? 1 : 0);
    return this.#upper.push(upper) - 1;
  }

  build(options: Pick<LinearModel, "start" | "seconds"> = {}): LinearModel {
    return {
      columns: {
        cost: Float64Array.from(this.#cost),
        lower: Float64Array.from(this.#lower),
        upper: Float64Array.from(this.#upper),
      },
      rows: { lower: Float64Array.from(this.#rowLower), upper: Float64Array.from(this.#rowUpper) },
      matrix: {
        starts: Int32Array.from(this.#starts),
        indices: Int32Array.from(this.#indices),
        values: Float64Array.from(this.#values),
      },
      ...(this.#integer.includes(1) ? { integer: Int32Array.from(this.#integer) } : {}),
      ...options,
    };
  }
}
