/**
 * FlexSP's figure of results (arXiv 2412.01523) on 64 A100 40 GB, batches of 512 texts of Wikipedia: its
 * speed-up over DeepSpeed-Ulysses, whose degree is fixed, and the speed-up of choosing one degree for each
 * batch over that ("BatchAda").
 */
export const PUBLISHED = [
  { model: "gpt-7b", context: 196_608, staticOverFlex: 1.72, staticOverAda: 1.34 },
  { model: "gpt-7b", context: 393_216, staticOverFlex: 1.46, staticOverAda: 1.32 },
  { model: "gpt-13b", context: 196_608, staticOverFlex: 1.59, staticOverAda: 1.31 },
  { model: "gpt-13b", context: 393_216, staticOverFlex: 1.43, staticOverAda: 1.21 },
  { model: "gpt-30b", context: 196_608, staticOverFlex: 1.64, staticOverAda: 1.23 },
  { model: "gpt-30b", context: 393_216, staticOverFlex: 1.53, staticOverAda: 1.18 },
];

/** Bandwidths of all-to-all that its profiles hold, MiB a millisecond by degree. */
export const MEASURED_ALL_TO_ALL = { 2: 119.54, 4: 104.07, 8: 96.5, 16: 10.33, 32: 5.94, 64: 4.87 };
