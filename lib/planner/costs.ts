import { invalidOption, LonghaulError, requireInteger, requireNumber, requireOneOf } from "../errors.js";

/** How a group of devices computes the attention of a sequence that is spread over them. */
export const ATTENTION_KINDS = ["ulysses", "ring", "hybrid", "all-gather"] as const;
export type AttentionKind = (typeof ATTENTION_KINDS)[number];

/** MiB a millisecond that each device of a group moves, by the group's degree: `{ "2": 119.5, "4": 104 }`. */
export type Bandwidths = Readonly<Record<string, number>>;

/** What the layers exchange is made of. */
export interface PlannedModel {
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** Of an activation; 2 for bf16. Default 2. */
  readonly bytesPerElement?: number;
  /** `training` exchanges everything in the backward pass once more. Default "training". */
  readonly pass?: "prefill" | "training";
}

/**
 * What a step costs on some devices, as it was measured there. The time of a group of `d` devices with
 * sequences s is
 *
 *     sum over s of ((msPerTokenSquared * s^2 + msPerToken * s) / d + MiB(s, d, kind) / bandwidth(kind, d)) + msPerGroup
 *
 * (FlexSP, arXiv 2412.01523, section 4, with the constants of its published code). MiB is the size of the
 * tensors on one device that go into the collectives; see `bytesPerToken`.
 */
export interface SequenceParallelCosts {
  readonly compute: {
    readonly msPerTokenSquared: number;
    readonly msPerToken: number;
    /** Fixed part of each group in each micro-batch: launches, gathering of sharded parameters. */
    readonly msPerGroup: number;
  };
  readonly memory: {
    /** Tokens of packed sequences that one device has memory for. */
    readonly tokensPerDevice: number;
  };
  readonly model: PlannedModel;
  readonly bandwidth: {
    /** Size of the tensor on one device over the time of the all-to-all: no factor (d - 1) / d. */
    readonly allToAll?: Bandwidths;
    /** Bytes that one device sends over the time that takes: what is measured with neighbours in a ring. */
    readonly ring?: Bandwidths;
    /** Bytes that one device receives over the time of an all-gather. */
    readonly allGather?: Bandwidths;
  };
}

const FORMAT = "longhaul-costs";
const VERSION = 1;

/** Reads the text of a costs file (docs/sequence-parallel.md). `name` is what errors call it. */
export function parseCosts(text: string, name: string): SequenceParallelCosts {
  const corrupt = (why: string) =>
    new LonghaulError("ERR_CORRUPT_FILE", `${name}: ${why}; docs/sequence-parallel.md describes costs files`);
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch (error) {
    throw corrupt(`is not JSON (${(error as Error).message})`);
  }
  if (typeof document !== "object" || document === null || (document as { format?: unknown }).format !== FORMAT)
    throw corrupt(`has no "format": "${FORMAT}"`);
  const { version } = document as { version?: unknown };
  if (version !== VERSION) {
    const code =
      Number.isInteger(version) && (version as number) > VERSION ? "ERR_UNSUPPORTED" : "ERR_CORRUPT_FILE";
    throw new LonghaulError(
      code,
      `${name}: is of version ${String(version)}, and this longhaul reads ${VERSION}`,
    );
  }
  try {
    return validateCosts(document as SequenceParallelCosts);
  } catch (error) {
    throw corrupt((error as Error).message);
  }
}

/** The text of a costs file. */
export function formatCosts(costs: SequenceParallelCosts): string {
  return `${JSON.stringify({ format: FORMAT, version: VERSION, ...validateCosts(costs) }, null, 2)}\n`;
}

/** Returns the costs without anything else that the object holds; ERR_INVALID_ARGUMENT names what is wrong. */
export function validateCosts(costs: SequenceParallelCosts): SequenceParallelCosts {
  const root = section(costs, "costs");
  const compute = section(root.compute, "costs.compute");
  const memory = section(root.memory, "costs.memory");
  const model = section(root.model, "costs.model");
  const bandwidth = section(root.bandwidth, "costs.bandwidth");
  const number = (of: Fields, name: string, path: string) => requireNumber(`${path}.${name}`, of[name], 0);
  const integer = (of: Fields, name: string, path: string) => requireInteger(`${path}.${name}`, of[name], 1);
  const heads = integer(model, "heads", "costs.model");
  const kvHeads = integer(model, "kvHeads", "costs.model");
  if (heads % kvHeads !== 0)
    throw invalidOption("costs.model.kvHeads", `a divisor of the ${heads} heads`, kvHeads);
  return {
    compute: {
      msPerTokenSquared: number(compute, "msPerTokenSquared", "costs.compute"),
      msPerToken: number(compute, "msPerToken", "costs.compute"),
      msPerGroup: number(compute, "msPerGroup", "costs.compute"),
    },
    memory: { tokensPerDevice: integer(memory, "tokensPerDevice", "costs.memory") },
    model: {
      layers: integer(model, "layers", "costs.model"),
      heads,
      kvHeads,
      headDim: integer(model, "headDim", "costs.model"),
      bytesPerElement: requireInteger("costs.model.bytesPerElement", model.bytesPerElement ?? 2, 1, 8),
      pass: requireOneOf("costs.model.pass", model.pass ?? "training", ["prefill", "training"] as const),
    },
    bandwidth: {
      ...bandwidths(bandwidth, "allToAll"),
      ...bandwidths(bandwidth, "ring"),
      ...bandwidths(bandwidth, "allGather"),
    },
  };
}

type Fields = { readonly [name: string]: unknown };

function section(value: unknown, path: string): Fields {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Fields;
  throw invalidOption(path, "an object", value);
}

function bandwidths(of: Fields, name: string): { [name: string]: Bandwidths } {
  if (of[name] === undefined) return {};
  const path = `costs.bandwidth.${name}`;
  const rates = Object.entries(section(of[name], path)).map(([degree, rate]) => {
    const number = Number(degree);
    if (!Number.isInteger(number) || number < 2 || !isPowerOfTwo(number))
      throw invalidOption(path, "rates by degree, a power of two of at least 2", degree);
    return [degree, requireNumber(`${path}.${degree}`, rate, Number.MIN_VALUE)] as const;
  });
  return { [name]: Object.fromEntries(rates) };
}

export const isPowerOfTwo = (value: number) => Number.isInteger(Math.log2(value));
