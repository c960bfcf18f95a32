import { invalidOption, requireInteger, requireNumber } from "./errors.js";

/** Below this, a layer's keys do not depend on attention: what is left is rounding. */
const INSENSITIVE = 1e-7;

/**
 * Divides `budget` rows a layer among the layers, more for those whose keys suffer more from windowed attention
 * (EpiCache, arXiv 2509.17396, equation 10): in proportion to (1 - similarity)^alpha, and at least floor(budget / 4) and
 * 1 each. Unlike in the published code the floor does not come on top: the sum is exactly layers * budget.
 *
 * @param similarity one number a layer: the mean cosine of its keys under full causal attention with those under
 *   attention to the first tokens and a window only; 1 for layer 0, whose keys depend on no attention
 * @param budget rows a KV head and layer on average
 * @param alpha 0 and less: every layer gets the same. Default 2, the paper's choice
 * @returns rows a KV head of each layer, for `memory.budget`
 */
export function layerBudgets(similarity: readonly number[], budget: number, alpha = 2): number[] {
  const layers = requireSimilarity(similarity).length;
  requireInteger("budget", budget, 1);
  requireNumber("alpha", alpha);
  if (isUniform(similarity, alpha)) return Array(layers).fill(budget);

  const weights = weightsOf(similarity, alpha);
  const total = layers * budget;
  const floor = Math.max(1, Math.floor(budget / 4));
  const fixed: boolean[] = Array(layers).fill(false);
  // What the floor costs is taken from the others, which may bring more of them down to it.
  for (;;) {
    const shares = share(weights, fixed, total, floor);
    const below = shares.map((rows, layer) => !fixed[layer] && rows < floor);
    if (!below.includes(true)) return largestRemainder(shares, total);
    for (const [layer, isBelow] of below.entries()) if (isBelow) fixed[layer] = true;
  }
}

/** Real numbers: the paper's equation without a floor. Layer 0 gets nothing. */
export function paperLayerBudgets(similarity: readonly number[], budget: number, alpha: number): number[] {
  requireSimilarity(similarity);
  if (isUniform(similarity, alpha)) return similarity.map(() => budget);
  const weights = weightsOf(similarity, alpha);
  const sum = weights.reduce((a, b) => a + b, 0);
  return weights.map((weight) => (similarity.length * budget * weight) / sum);
}

/** What EpiCache's published code does: the floor comes on top, so that the sum may exceed layers * budget. */
export function publishedLayerBudgets(similarity: readonly number[], budget: number, alpha: number): number[] {
  requireSimilarity(similarity);
  const [min, max] = [Math.min(...similarity), Math.max(...similarity)];
  if (alpha <= 0 || min === max) return similarity.map(() => budget);
  const weights = similarity.map((sigma) => (1 - (sigma - min) / (max - min)) ** alpha);
  const sum = weights.reduce((a, b) => a + b, 0);
  const floor = Math.max(1, Math.floor(budget / 4));
  return weights.map((weight) => Math.max(Math.trunc((weight * similarity.length * budget) / sum), floor));
}

function sensitivity(similarity: readonly number[]): number[] {
  return similarity.map((sigma) => (1 - sigma < INSENSITIVE ? 0 : 1 - sigma));
}

/** Relative to the largest, which keeps a large alpha from making them all zero. */
function weightsOf(similarity: readonly number[], alpha: number): number[] {
  const sensitivities = sensitivity(similarity);
  const largest = Math.max(...sensitivities);
  return sensitivities.map((s) => (s / largest) ** alpha);
}

function isUniform(similarity: readonly number[], alpha: number): boolean {
  return alpha <= 0 || sensitivity(similarity).every((s) => s === 0);
}

/** `floor` for the fixed layers, the rest of `total` to the others by weight. */
function share(weights: readonly number[], fixed: readonly boolean[], total: number, floor: number): number[] {
  const rest = total - floor * fixed.filter((isFixed) => isFixed).length;
  const sum = weights.reduce((all, weight, layer) => (fixed[layer] ? all : all + weight), 0);
  return weights.map((weight, layer) => (fixed[layer] ? floor : (rest * weight) / sum));
}

/** Whole numbers that sum up to `total`: rounded down, then one more for the largest fractions, lower layers first. */
function largestRemainder(shares: readonly number[], total: number): number[] {
  const whole = shares.map(Math.floor);
  const missing = total - whole.reduce((a, b) => a + b, 0);
  const fraction = (layer: number) => (shares[layer] as number) - (whole[layer] as number);
  const order = [...whole.keys()].sort((a, b) => fraction(b) - fraction(a) || a - b);
  for (const layer of order.slice(0, missing)) whole[layer] = (whole[layer] as number) + 1;
  return whole;
}

function requireSimilarity(similarity: readonly number[]): readonly number[] {
  if (!Array.isArray(similarity) || similarity.length === 0) {
    throw invalidOption("similarity", "an array with one number for each layer", similarity);
  }
  similarity.forEach((sigma, layer) => {
    requireNumber(`similarity[${layer}]`, sigma, -1, 1 + INSENSITIVE);
  });
  return similarity;
}
