import { requireInteger, requireNumber } from "../errors.js";
import { callKernel, type KernelOptions, output, requireArray, requirePositive, rowsOf } from "./call.js";

/**
 * Draws one token from each row of `logits` [rows, vocabulary], filtered in the order of Hugging Face's generate():
 * repetition penalty, temperature, top-k, top-p, min-p. Row r draws with position `position` + r. `probabilities`
 * [rows, vocabulary] are those drawn from.
 */
export async function sample(
  args: {
    readonly logits: Float32Array;
    readonly vocabulary: number;
    /** 0: the largest logit, the lowest id on a tie. Default 1. */
    readonly temperature?: number;
    readonly topK?: number;
    readonly topP?: number;
    readonly minP?: number;
    readonly repetitionPenalty?: number;
    /** Tokens that the penalty falls on, in all rows. */
    readonly seen?: readonly number[];
    readonly seed?: number;
    readonly position?: number;
  },
  options?: KernelOptions,
): Promise<{ ids: Int32Array; probabilities: Float32Array }> {
  const vocab = requirePositive("vocabulary", args.vocabulary);
  const { logits } = args;
  const rows = rowsOf("logits", requireArray("logits", logits, Float32Array), vocab);
  const seed = requireInteger("seed", args.seed ?? 0, 0);
  const position = requireInteger("position", args.position ?? 0, 0);
  const inputs = {
    logits,
    rows,
    vocab,
    temperature: requireNumber("temperature", args.temperature ?? 1, 0),
    topK: requireInteger("topK", args.topK ?? 0, 0, 2 ** 31 - 1),
    topP: requireNumber("topP", args.topP ?? 1, 0, 1),
    minP: requireNumber("minP", args.minP ?? 0, 0, 1),
    repetitionPenalty: requireNumber("repetitionPenalty", args.repetitionPenalty ?? 1, 0.01, 100),
    seeds: new Float64Array(rows).fill(seed),
    positions: Float64Array.from({ length: rows }, (_, row) => position + row),
    ...(args.seen && { seen: seenMask(args.seen, rows, vocab) }),
  };
  const outputs = await callKernel("sample", inputs, options);
  return { ids: output<Int32Array>(outputs, "ids"), probabilities: output(outputs, "probabilities") };
}

/** One bit a token, in rows of whole bytes. */
function seenMask(seen: readonly number[], rows: number, vocab: number): Uint8Array {
  const width = Math.ceil(vocab / 8);
  const mask = new Uint8Array(rows * width);
  for (const [index, id] of seen.entries()) {
    requireInteger(`seen[${index}]`, id, 0, vocab - 1);
    for (let row = 0; row < rows; row++) {
      const at = row * width + (id >> 3);
      mask[at] = (mask[at] as number) | (1 << (id & 7));
    }
  }
  return mask;
}
