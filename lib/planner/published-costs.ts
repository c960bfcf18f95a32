import { invalidOption, LonghaulError, requireInteger, requireOneOf } from "../errors.js";
import type { SequenceParallelCosts } from "./costs.js";

/**
 * The profiles that FlexSP ships for GPT models on A100 40 GB, 8 to a node, "2 IB" (its published code). All
 * three models have 64 heads there, so that Ulysses reaches degree 64. `parameters` are in 2^30, at 192K and
 * 384K positions: they are learned, so a longer context takes memory.
 */
const PROFILES = {
  "gpt-7b": {
    layers: 32,
    hidden: 4096,
    squared: 5.128e-6,
    linear: 0.1839576,
    fixed: 629.3563,
    activation: 4.4804,
    parameters: [7.117, 7.85],
  },
  "gpt-13b": {
    layers: 40,
    hidden: 5120,
    squared: 9.2852e-6,
    linear: 0.3060189,
    fixed: 1132.5632,
    activation: 4.2204,
    parameters: [13.116, 14.032],
  },
  "gpt-30b": {
    layers: 60,
    hidden: 6656,
    squared: 1.54262e-5,
    linear: 0.8035742,
    fixed: 2789.3644,
    activation: 3.4174,
    parameters: [31.525, 32.715],
  },
} as const;

export type PublishedModel = keyof typeof PROFILES;
export const PUBLISHED_MODELS = Object.keys(PROFILES) as PublishedModel[];

const ALL_TO_ALL = { 2: 119.54, 4: 104.07, 8: 96.5, 16: 10.33, 32: 5.94, 64: 4.87 };
const HEADS = 64;
const CONTEXTS = [196_608, 393_216] as const;

export interface PublishedCostsOptions {
  /** Devices that share the model states (ZeRO-3). */
  readonly devices: number;
  /** Positions of the model, 192K to 384K. Default 196608. */
  readonly context?: number;
  /** Memory of a device that may be filled. Default 30, of 40. */
  readonly memoryGiB?: number;
}

/** The costs that FlexSP's published code assumes for one of its models. */
export function publishedCosts(name: PublishedModel, options: PublishedCostsOptions): SequenceParallelCosts {
  const profile = PROFILES[requireOneOf("name", name, PUBLISHED_MODELS)];
  const devices = requireInteger("devices", options.devices, 1);
  const context = requireInteger("context", options.context ?? CONTEXTS[0], ...CONTEXTS);
  const memoryGiB = options.memoryGiB ?? 30;
  if (!(memoryGiB > 0)) throw invalidOption("memoryGiB", "a number above 0", memoryGiB);
  const between = (context - CONTEXTS[0]) / (CONTEXTS[1] - CONTEXTS[0]);
  const [low, high] = profile.parameters;
  const statesMiB = (16 * (low + between * (high - low)) * 1024) / devices;
  const tokensPerDevice = Math.floor((memoryGiB * 1024 - statesMiB) / profile.activation);
  if (tokensPerDevice < 1) {
    throw new LonghaulError(
      "ERR_INVALID_ARGUMENT",
      `${name} has model states of ${Math.ceil(statesMiB)} MiB on each of ${devices} devices, which leaves nothing of ${memoryGiB} GiB for tokens; take more devices, or costs of your own`,
    );
  }
  return {
    compute: {
      msPerTokenSquared: profile.squared,
      msPerToken: profile.linear,
      msPerGroup: profile.fixed,
    },
    memory: { tokensPerDevice },
    model: {
      layers: profile.layers,
      heads: HEADS,
      kvHeads: HEADS,
      headDim: profile.hidden / HEADS,
      bytesPerElement: 2,
      pass: "training",
    },
    bandwidth: { allToAll: ALL_TO_ALL },
  };
}
