// Random weights: the same for the same seed and tensor, finite through all layers.

// A block of a prime length is drawn and repeated: rows still differ, and a billion numbers take seconds.
const BLOCK = 1048573;

/** 32-bit mixing of a seed and a name: xmur3's loop. */
function hash(seed, name) {
  let h = (seed ^ 1779033703) >>> 0;
  for (let i = 0; i < name.length; ++i) {
    h = Math.imul(h ^ name.charCodeAt(i), 3432918353);
    h = (h << 13) | (h >>> 19);
  }
  return h >>> 0 || 1;
}

/**
 * Numbers that go round for one tensor, uniform with the given mean and standard deviation.
 * @returns {Float32Array}
 */
export function randomBlock(seed, name, count, mean, deviation) {
  const values = new Float32Array(Math.min(count, BLOCK));
  const width = deviation * Math.sqrt(12);
  let state = hash(seed, name);
  for (let i = 0; i < values.length; ++i) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    values[i] = mean + ((state >>> 0) / 2 ** 32 - 0.5) * width;
  }
  return values;
}

/** Mean and standard deviation of a tensor's entries. */
export function distributionOf(tensor, shape) {
  const { name } = tensor;
  if (name.endsWith("norm.weight")) return { mean: 1, deviation: 0.1 };
  if (name.endsWith(".bias")) return { mean: 0, deviation: 0.1 };
  const inputs = tensor.shape[1];
  // Not larger: a token whose embedding dominates the residual stream would predict itself for ever.
  if (name.startsWith("model.embed")) return { mean: 0, deviation: 0.5 / Math.sqrt(inputs) };
  // What joins the residual stream is scaled so that it does not grow with the layers.
  const joins = name.includes("o_proj") || name.includes("down_proj");
  return { mean: 0, deviation: 1 / Math.sqrt(inputs * (joins ? 2 * shape.layers : 1)) };
}

/** The upper halves of f32 values: bf16, rounded towards zero. */
export function toBf16(values) {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const halves = new Uint16Array(bits.length);
  for (let i = 0; i < bits.length; ++i) halves[i] = bits[i] >>> 16;
  return halves;
}

/** Bytes [offset, offset + length) of `block` repeated without end. */
export function fillRepeated(target, block, offset) {
  let at = offset % block.length;
  for (let done = 0; done < target.length; at = 0) {
    const part = block.subarray(at, Math.min(block.length, at + target.length - done));
    target.set(part, done);
    done += part.length;
  }
}
