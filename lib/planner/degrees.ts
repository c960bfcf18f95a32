import { LonghaulError } from "../errors.js";
import { chooseKind, type KindChoice } from "./attention-kind.js";
import type { AttentionKind, SequenceParallelCosts } from "./costs.js";

/** A degree that groups may have, with its costs. */
export interface Degree {
  readonly degree: number;
  readonly choice: KindChoice;
  /** ms of a sequence: squared * s^2 + linear * s. */
  readonly squared: number;
  readonly linear: number;
  /** Tokens that fit into a group. */
  readonly capacity: number;
}

export interface DegreeLimits {
  readonly devices: number;
  readonly minDegree?: number;
  readonly maxDegree?: number;
  readonly attention?: readonly AttentionKind[];
}

/** The degrees from `minDegree` to `maxDegree` that the costs know how to carry out, ascending. */
export function degreesOf(costs: SequenceParallelCosts, limits: DegreeLimits): Degree[] {
  const { devices, minDegree = 1, maxDegree = devices, attention } = limits;
  const { msPerTokenSquared, msPerToken } = costs.compute;
  const degrees: Degree[] = [];
  for (let degree = 1; degree <= Math.min(devices, maxDegree); degree *= 2) {
    const choice = degree < minDegree ? undefined : chooseKind(costs, degree, attention);
    if (choice === undefined) continue;
    degrees.push({
      degree,
      choice,
      squared: msPerTokenSquared / degree,
      linear: msPerToken / degree + choice.msPerToken,
      capacity: costs.memory.tokensPerDevice * degree,
    });
  }
  if (degrees.length === 0) {
    throw new LonghaulError(
      "ERR_INVALID_ARGUMENT",
      `no degree from ${minDegree} to ${maxDegree} can be carried out on ${devices} devices: costs.bandwidth holds no rate for it, or the head counts do not allow the kinds of attention`,
    );
  }
  return degrees;
}

/** Milliseconds that a sequence adds to a group. */
export const weight = ({ squared, linear }: Degree, tokens: number) => (squared * tokens + linear) * tokens;
