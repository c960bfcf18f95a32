// Batches of sequence lengths like those of a corpus of which only quantiles are at hand.
import { seededRandom } from "../../examples/demo/dialogue.mjs";

/**
 * Wikipedia, 1,000,000 texts in tokens: the share of texts at least so long, and the length. Beside the mean of
 * 1014 these are all that is used.
 */
export const WIKIPEDIA = {
  name: "Wikipedia",
  mean: 1014,
  quantiles: [
    [1, 16],
    [0.5, 347],
    [0.1, 2112],
    [0.044, 4096],
    [0.01, 10_919],
    [0.0013, 32_768],
    [0.001, 37_353],
    [1e-6, 1_823_777],
  ],
};

/**
 * The length that a share of texts reaches: between two quantiles its logarithm is linear in that of the share.
 */
export function lengthAt(share, { quantiles }) {
  const upper = quantiles.findIndex(([reached]) => reached <= share);
  const next = upper < 0 ? quantiles.length - 1 : Math.max(upper, 1);
  const [[shareA, lengthA], [shareB, lengthB]] = [quantiles[next - 1], quantiles[next]];
  const at = Math.log(share / shareA) / Math.log(shareB / shareA);
  return Math.max(1, Math.round(lengthA * (lengthB / lengthA) ** at));
}

/**
 * `count` lengths, the same for the same seed. As in FlexSP's code, texts of more than `limit` tokens less two
 * a device are left out, and the others are padded to a multiple of two a device.
 */
export function drawBatch(distribution, { seed, count, limit, devices }) {
  const { next } = seededRandom(seed);
  const unit = 2 * devices;
  const lengths = [];
  while (lengths.length < count) {
    const length = lengthAt(1 - next(), distribution);
    if (length <= limit - unit) lengths.push(Math.ceil(length / unit) * unit);
  }
  return lengths;
}
