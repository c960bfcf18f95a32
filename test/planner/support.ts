import { readFileSync } from "node:fs";
import { join } from "node:path";
import { seededRandom } from "../../lib/episodes/random.js";
import { publishedCosts, type SequenceParallelCosts } from "../../lib/index.js";
import { root } from "../engine/support.js";

export const fixtures = join(root, "test/fixtures/parallel/planner");

export function readFixture<T>(name: string): T {
  return JSON.parse(readFileSync(join(fixtures, name), "utf8")) as T;
}

/** FlexSP's constants for GPT-7B with another memory. */
export function costsWith(tokensPerDevice: number): SequenceParallelCosts {
  return { ...publishedCosts("gpt-7b", { devices: 64 }), memory: { tokensPerDevice } };
}

/** Lengths with a long tail: most short, few very long. */
export function longTailed(seed: number, count: number, { median = 347, sigma = 1.45, max = 190_000 } = {}) {
  const random = seededRandom(seed);
  const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  return Array.from({ length: count }, () =>
    Math.max(16, Math.min(max, Math.round(median * Math.exp(sigma * normal())))),
  );
}
