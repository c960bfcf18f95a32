import type { AttentionKind, SequenceParallelCosts } from "./costs.js";

export interface PlanOptions {
  /** Devices of the cluster, 1 to 4096. */
  readonly devices: number;
  readonly costs: SequenceParallelCosts;
  /** Smallest degree of a group, a power of two. Default 1. */
  readonly minDegree?: number;
  /** Largest degree of a group, a power of two. Default the largest that the devices allow. */
  readonly maxDegree?: number;
  /** Kinds of attention that a group may use. Default all; which one is chosen by what it communicates. */
  readonly attention?: readonly AttentionKind[];
  /** How many numbers of micro-batches are tried, from the smallest that fits. Default 5. */
  readonly microBatchOptions?: number;
}

/** Devices that share sequences: from `firstDevice`, a multiple of `degree`, on. */
export interface PlannedGroup {
  readonly degree: number;
  readonly firstDevice: number;
  readonly attention: AttentionKind;
  /**
   * Devices that exchange heads among them (Ulysses), and sets of those that form a ring: ulysses * ring =
   * degree.
   */
  readonly ulysses: number;
  readonly ring: number;
  /** Indices into the lengths that were planned, ascending. */
  readonly sequences: readonly number[];
  readonly tokens: number;
  readonly ms: number;
  /**
   * For trainers whose ranks take the mean loss of their own tokens and average gradients over all devices:
   * multiply that mean with this, and every token of the step weighs the same whatever the plan.
   */
  readonly meanLossScale: number;
}

/** Groups that run at the same time, the largest first. */
export interface MicroBatch {
  readonly groups: readonly PlannedGroup[];
  readonly tokens: number;
  /** Of the slowest group. */
  readonly ms: number;
}

export interface SequenceParallelPlan {
  readonly devices: number;
  readonly sequences: number;
  readonly tokens: number;
  /** Run one after another. */
  readonly microBatches: readonly MicroBatch[];
  readonly ms: number;
  /**
   * For trainers that sum the losses of tokens and average gradients over all devices: multiply the sums of
   * every rank with this, devices / tokens.
   */
  readonly tokenLossScale: number;
}
