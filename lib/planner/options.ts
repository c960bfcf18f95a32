import { describeValue, invalidOption, LonghaulError, requireInteger, requireOneOf } from "../errors.js";
import { ATTENTION_KINDS, isPowerOfTwo, type SequenceParallelCosts, validateCosts } from "./costs.js";
import { type Degree, degreesOf } from "./degrees.js";
import type { PlanOptions } from "./types.js";

const MOST_DEVICES = 4096;

/** What is planned: checked lengths, the order of the longest first, and the degrees that groups may have. */
export interface Problem {
  readonly lengths: readonly number[];
  /** Indices into `lengths`, the longest first; equally long ones in their order. */
  readonly order: readonly number[];
  readonly devices: number;
  readonly costs: SequenceParallelCosts;
  readonly degrees: readonly Degree[];
  readonly microBatchOptions: number;
}

/** Throws ERR_INVALID_ARGUMENT for options and lengths that make no sense or a sequence that fits nowhere. */
export function readProblem(lengths: readonly number[], options: PlanOptions): Problem {
  if (typeof options !== "object" || options === null)
    throw invalidOption("options", "an object with devices and costs", options);
  const devices = requireInteger("devices", options.devices, 1, MOST_DEVICES);
  const costs = validateCosts(options.costs);
  const largest = 2 ** Math.floor(Math.log2(devices));
  const minDegree = requireDegree("minDegree", options.minDegree ?? 1, 1, largest);
  const maxDegree = requireDegree("maxDegree", options.maxDegree ?? largest, minDegree, largest);
  if (options.attention !== undefined && !Array.isArray(options.attention))
    throw invalidOption("attention", `a list of ${ATTENTION_KINDS.join(", ")}`, options.attention);
  options.attention?.forEach((kind, i) => {
    requireOneOf(`attention[${i}]`, kind, ATTENTION_KINDS);
  });
  const { attention = ATTENTION_KINDS } = options;
  const degrees = degreesOf(costs, { devices, minDegree, maxDegree, attention });
  requireLengths(lengths, degrees.at(-1) as Degree);
  return {
    lengths,
    order: [...lengths.keys()].sort((a, b) => (lengths[b] as number) - (lengths[a] as number) || a - b),
    devices,
    costs,
    degrees,
    microBatchOptions: requireInteger("microBatchOptions", options.microBatchOptions ?? 5, 1, 64),
  };
}

function requireDegree(option: string, value: unknown, min: number, max: number): number {
  if (
    Number.isSafeInteger(value) &&
    isPowerOfTwo(value as number) &&
    (value as number) >= min &&
    (value as number) <= max
  )
    return value as number;
  throw invalidOption(option, `a power of two from ${min} to ${max}`, value);
}

function requireLengths(lengths: unknown, { degree, capacity }: Degree): void {
  if (!Array.isArray(lengths) || lengths.length === 0)
    throw invalidOption("lengths", "an array with the tokens of each sequence", lengths);
  lengths.forEach((length: unknown, index) => {
    if (!Number.isSafeInteger(length) || (length as number) < 1)
      throw invalidOption(`lengths[${index}]`, "an integer of at least 1", length);
    if ((length as number) > capacity) {
      throw new LonghaulError(
        "ERR_INVALID_ARGUMENT",
        `lengths[${index}] is ${describeValue(length)} tokens, and the largest group, of ${degree} devices, has memory for ${capacity}; leave it out, or plan for more devices`,
      );
    }
  });
}
