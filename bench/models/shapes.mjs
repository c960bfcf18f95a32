// The models that are measured: real shapes, random weights.

/**
 * @typedef {object} ModelShape
 * @property {string} name
 * @property {"llama" | "qwen2"} architecture
 * @property {number} hidden
 * @property {number} layers
 * @property {number} heads
 * @property {number} kvHeads
 * @property {number} headDim
 * @property {number} ff
 * @property {number} vocab
 * @property {number} maxPositions as far as the longest history that is measured, or the model's own if longer
 * @property {number} ropeTheta
 * @property {object} [ropeScaling] as in config.json
 * @property {number} eps
 * @property {boolean} tied the output matrix is the embedding
 */

/** @type {ModelShape[]} Smallest first. */
export const SHAPES = [
  {
    name: "stories260K",
    architecture: "llama",
    hidden: 64,
    layers: 5,
    heads: 8,
    kvHeads: 4,
    headDim: 8,
    ff: 172,
    vocab: 512,
    maxPositions: 4096,
    ropeTheta: 10000,
    eps: 1e-5,
    tied: true,
  },
  {
    name: "SmolLM2-135M",
    architecture: "llama",
    hidden: 576,
    layers: 30,
    heads: 9,
    kvHeads: 3,
    headDim: 64,
    ff: 1536,
    vocab: 49152,
    maxPositions: 65536,
    ropeTheta: 100000,
    eps: 1e-5,
    tied: true,
  },
  {
    name: "Qwen2.5-0.5B",
    architecture: "qwen2",
    hidden: 896,
    layers: 24,
    heads: 14,
    kvHeads: 2,
    headDim: 64,
    ff: 4864,
    vocab: 151936,
    maxPositions: 65536,
    ropeTheta: 1000000,
    eps: 1e-6,
    tied: true,
  },
  {
    name: "Llama-3.2-1B",
    architecture: "llama",
    hidden: 2048,
    layers: 16,
    heads: 32,
    kvHeads: 8,
    headDim: 64,
    ff: 8192,
    vocab: 128256,
    maxPositions: 131072,
    ropeTheta: 500000,
    ropeScaling: {
      rope_type: "llama3",
      factor: 32,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 8192,
    },
    eps: 1e-5,
    tied: true,
  },
  {
    name: "Llama-3.1-8B",
    architecture: "llama",
    hidden: 4096,
    layers: 32,
    heads: 32,
    kvHeads: 8,
    headDim: 128,
    ff: 14336,
    vocab: 128256,
    maxPositions: 131072,
    ropeTheta: 500000,
    ropeScaling: {
      rope_type: "llama3",
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 8192,
    },
    eps: 1e-5,
    tied: false,
  },
];

/** What is measured when no model is named: a CPU would read an 8B history for hours, a GPU has nothing to do below 1B. */
export function defaultModels(device, quick) {
  if (device === "reference") return ["stories260K"];
  if (device.startsWith("cuda")) return quick ? ["Llama-3.2-1B"] : ["Llama-3.2-1B", "Llama-3.1-8B"];
  if (quick) return ["stories260K", "SmolLM2-135M"];
  return ["stories260K", "SmolLM2-135M", "Qwen2.5-0.5B", "Llama-3.2-1B"];
}

/** @returns {ModelShape} */
export function shapeOf(name) {
  const shape = SHAPES.find((candidate) => candidate.name === name);
  if (shape === undefined) {
    throw new Error(`no model '${name}': there are ${SHAPES.map((each) => each.name).join(", ")}`);
  }
  return shape;
}

/** Matrices as [outputs, inputs], vectors as [size], named as in Hugging Face's checkpoints. */
export function tensorsOf(shape) {
  const { hidden, heads, kvHeads, headDim, ff, vocab, layers } = shape;
  const tensors = [{ name: "model.embed_tokens.weight", shape: [vocab, hidden] }];
  if (!shape.tied) tensors.push({ name: "lm_head.weight", shape: [vocab, hidden] });
  for (let layer = 0; layer < layers; ++layer) {
    const add = (name, ...extents) => tensors.push({ name: `model.layers.${layer}.${name}`, shape: extents });
    add("input_layernorm.weight", hidden);
    for (const [part, rows] of [
      ["q", heads * headDim],
      ["k", kvHeads * headDim],
      ["v", kvHeads * headDim],
    ]) {
      add(`self_attn.${part}_proj.weight`, rows, hidden);
      if (shape.architecture === "qwen2") add(`self_attn.${part}_proj.bias`, rows);
    }
    add("self_attn.o_proj.weight", hidden, heads * headDim);
    add("post_attention_layernorm.weight", hidden);
    add("mlp.gate_proj.weight", ff, hidden);
    add("mlp.up_proj.weight", ff, hidden);
    add("mlp.down_proj.weight", hidden, ff);
  }
  tensors.push({ name: "model.norm.weight", shape: [hidden] });
  return tensors;
}

/** What a decode step reads of the weights, in elements: every matrix but the embedding, which it reads as output. */
export function weightsReadPerToken(shape) {
  return tensorsOf(shape)
    .filter((tensor) => shape.tied || tensor.name !== "model.embed_tokens.weight")
    .reduce((sum, tensor) => sum + tensor.shape.reduce((product, extent) => product * extent, 1), 0);
}

/** FLOP a token of a prefill behind a full cache: the layers' matrices once, and attention to all rows before it. */
export function prefillFlops(shape, from, to) {
  const { heads, headDim, layers } = shape;
  const matrices = tensorsOf(shape)
    .filter((tensor) => tensor.name.startsWith("model.layers.") && tensor.shape.length === 2)
    .reduce((sum, tensor) => sum + tensor.shape[0] * tensor.shape[1], 0);
  return 2 * matrices + 4 * layers * heads * headDim * ((from + to + 1) / 2);
}

/** Bytes that a decode step reads: the weights once, and keys and values of `rows` rows. */
export function decodeBytes(shape, dtype, rows) {
  const { layers, kvHeads, headDim } = shape;
  return (dtype === "f32" ? 4 : 2) * (weightsReadPerToken(shape) + 2 * layers * kvHeads * headDim * rows);
}

export function configOf(shape, dtype) {
  return {
    architectures: [shape.architecture === "qwen2" ? "Qwen2ForCausalLM" : "LlamaForCausalLM"],
    model_type: shape.architecture,
    hidden_act: "silu",
    hidden_size: shape.hidden,
    intermediate_size: shape.ff,
    num_hidden_layers: shape.layers,
    num_attention_heads: shape.heads,
    num_key_value_heads: shape.kvHeads,
    head_dim: shape.headDim,
    vocab_size: shape.vocab,
    max_position_embeddings: shape.maxPositions,
    rms_norm_eps: shape.eps,
    rope_theta: shape.ropeTheta,
    rope_scaling: shape.ropeScaling ?? null,
    tie_word_embeddings: shape.tied,
    attention_bias: false,
    torch_dtype: dtype === "bf16" ? "bfloat16" : "float32",
  };
}
