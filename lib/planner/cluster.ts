import { invalidOption, requireInteger, requireNumber } from "../errors.js";
import { chooseKind } from "./attention-kind.js";
import { type AttentionKind, isPowerOfTwo, type SequenceParallelCosts } from "./costs.js";
import type { SequenceParallelPlan } from "./types.js";

/** Nodes of equal devices with fast links inside and slower ones between. */
export interface Cluster {
  /** A power of two, 2 to 4096. */
  readonly devices: number;
  /** A power of two. Default 8. */
  readonly devicesPerNode?: number;
  /** MiB a millisecond that a device sends to its node's others. */
  readonly deviceLink: number;
  /** MiB a millisecond that a node sends to all other nodes, shared by its devices. */
  readonly nodeLink: number;
}

/**
 * Bandwidths of collectives as links allow them at best, by degree: every device sends at the same time, inside
 * and between nodes overlap, nothing is lost to latency or congestion. All-to-all: of what a device holds, (n -
 * 1) / d stays in its node of n devices and (d - n) / d goes over its share of the node's link. Ring and
 * all-gather: one neighbour in d is on another node, at the node's whole link.
 */
export function clusterBandwidths(cluster: Cluster): Required<SequenceParallelCosts["bandwidth"]> {
  const devices = requireInteger("cluster.devices", cluster.devices, 2, 4096);
  const perNode = requireInteger("cluster.devicesPerNode", cluster.devicesPerNode ?? 8, 1, devices);
  if (!isPowerOfTwo(devices)) throw invalidOption("cluster.devices", "a power of two", devices);
  if (!isPowerOfTwo(perNode)) throw invalidOption("cluster.devicesPerNode", "a power of two", perNode);
  const deviceLink = requireNumber("cluster.deviceLink", cluster.deviceLink, Number.MIN_VALUE);
  const nodeLink = requireNumber("cluster.nodeLink", cluster.nodeLink, Number.MIN_VALUE);
  const allToAll: Record<string, number> = {};
  const ring: Record<string, number> = {};
  for (let degree = 2; degree <= devices; degree *= 2) {
    const near = Math.min(degree, perNode);
    const inside = (near - 1) / degree / deviceLink;
    const between = ((degree - near) / degree) * (perNode / nodeLink);
    allToAll[degree] = 1 / Math.max(inside, between);
    ring[degree] = degree <= perNode ? deviceLink : Math.min(perNode === 1 ? nodeLink : deviceLink, nodeLink);
  }
  return { allToAll, ring, allGather: { ...ring } };
}

/** Where the device-time of a step goes; the shares sum up to 1. */
export interface SimulatedStep {
  readonly ms: number;
  /** Attention and the other layers. */
  readonly compute: number;
  readonly communication: number;
  /** The fixed part of each group. */
  readonly fixed: number;
  /** For the slowest group of the micro-batch. */
  readonly waiting: number;
}

/**
 * Runs a plan on devices that cost what `costs` say, which need not be those it was made with: every group's
 * sequences one after another, micro-batches as long as their slowest group.
 */
export function simulateStep(
  lengths: readonly number[],
  plan: SequenceParallelPlan,
  costs: SequenceParallelCosts,
): SimulatedStep {
  const { msPerTokenSquared, msPerToken, msPerGroup } = costs.compute;
  let ms = 0;
  let compute = 0;
  let communication = 0;
  let fixed = 0;
  for (const { groups } of plan.microBatches) {
    let slowest = 0;
    for (const { degree, attention, sequences } of groups) {
      const tokens = sequences.map((index) => lengths[index] as number);
      // On the group's devices together.
      const computing = tokens.reduce((sum, s) => sum + msPerTokenSquared * s * s + msPerToken * s, 0);
      const moving = tokens.reduce((sum, s) => sum + s, 0) * degree * msPerTokenMoved(costs, degree, attention);
      compute += computing;
      communication += moving;
      fixed += degree * msPerGroup;
      slowest = Math.max(slowest, (computing + moving) / degree + msPerGroup);
    }
    ms += slowest;
  }
  const all = ms * plan.devices;
  return {
    ms,
    compute: compute / all,
    communication: communication / all,
    fixed: fixed / all,
    waiting: 1 - (compute + communication + fixed) / all,
  };
}

function msPerTokenMoved(costs: SequenceParallelCosts, degree: number, attention: AttentionKind): number {
  const choice = chooseKind(costs, degree, [attention]);
  if (choice === undefined)
    throw invalidOption("costs.bandwidth", `rates for ${attention} on ${degree} devices`, costs.bandwidth);
  return choice.msPerToken;
}
