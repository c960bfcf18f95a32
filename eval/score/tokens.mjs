// What the token F1 of LoCoMo and that of EpiCache have in common.

/** ASCII punctuation, as Python's string.punctuation. */
const PUNCTUATION = /[!-/:-@[-`{-~]/g;

/** Whole words, whatever script stands beside them. */
export const wholeWords = (words) =>
  new RegExp(`(?<![\\p{L}\\p{M}\\p{N}_])(?:${words.join("|")})(?![\\p{L}\\p{M}\\p{N}_])`, "gu");

export const withoutPunctuation = (text) => text.toLowerCase().replace(PUNCTUATION, "");

export const wordsOf = (text) => text.split(/\s+/).filter((word) => word !== "");

/** The harmonic mean of precision and recall of words, each counted as often as it occurs; 0 where none is shared. */
export function tokenF1(predicted, expected) {
  const left = new Map();
  for (const word of expected) left.set(word, (left.get(word) ?? 0) + 1);
  let shared = 0;
  for (const word of predicted) {
    const count = left.get(word) ?? 0;
    if (count > 0) shared += 1;
    left.set(word, count - 1);
  }
  if (shared === 0) return 0;
  const precision = shared / predicted.length;
  const recall = shared / expected.length;
  return (2 * precision * recall) / (precision + recall);
}
