// Converts a random checkpoint to GGUF, the peer's format: the same numbers at the same precision.
import fs from "node:fs";
import path from "node:path";
import { configOf, tensorsOf } from "./shapes.mjs";
import { BOS, EOS } from "./tokenizer.mjs";

const ALIGNMENT = 32;
const VALUE = { u32: 4, f32: 6, bool: 7, string: 8, array: 9 };
const TENSOR = { f32: 0, bf16: 30 };
const FILE_TYPE = { f32: 0, bf16: 32 };

const u32 = (value) => {
  const out = Buffer.alloc(4);
  out.writeUInt32LE(value);
  return out;
};
const u64 = (value) => {
  const out = Buffer.alloc(8);
  out.writeBigUInt64LE(BigInt(value));
  return out;
};
const f32 = (value) => {
  const out = Buffer.alloc(4);
  out.writeFloatLE(value);
  return out;
};
const string = (text) => {
  const bytes = Buffer.from(text);
  return Buffer.concat([u64(bytes.length), bytes]);
};
const padded = (bytes) => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

/** Key-value pairs in the order they are added. */
class Metadata {
  count = 0;
  parts = [];
  add(key, type, ...payload) {
    this.parts.push(string(key), u32(type), ...payload);
    this.count++;
  }
  string = (key, value) => this.add(key, VALUE.string, string(value));
  u32 = (key, value) => this.add(key, VALUE.u32, u32(value));
  f32 = (key, value) => this.add(key, VALUE.f32, f32(value));
  bool = (key, value) => this.add(key, VALUE.bool, Buffer.from([value ? 1 : 0]));
  array = (key, type, items) => this.add(key, VALUE.array, u32(type), u64(items.length), Buffer.concat(items));
}

/** A sentencepiece vocabulary whose ids mean what tokenizer.json says they mean, as far as the bench uses them. */
function addVocabulary(metadata, size) {
  const NORMAL = 1;
  const CONTROL = 3;
  const UNUSED = 5;
  const BYTE = 6;
  const hex = (byte) => byte.toString(16).toUpperCase().padStart(2, "0");
  const ids = Array.from({ length: size }, (_, id) => id);
  const names = ids.map((id) =>
    id < 256
      ? `<0x${hex(id)}>`
      : id === BOS
        ? "<s>"
        : id === EOS
          ? "</s>"
          : id === 258
            ? "\u2581"
            : `<unused${id}>`,
  );
  const types = ids.map((id) => (id < 256 ? BYTE : id <= EOS ? CONTROL : id === 258 ? NORMAL : UNUSED));
  metadata.string("tokenizer.ggml.model", "llama");
  metadata.array("tokenizer.ggml.tokens", VALUE.string, names.map(string));
  metadata.array(
    "tokenizer.ggml.scores",
    VALUE.f32,
    ids.map((id) => f32(-id)),
  );
  metadata.array("tokenizer.ggml.token_type", 5, types.map(u32));
  metadata.u32("tokenizer.ggml.bos_token_id", BOS);
  metadata.u32("tokenizer.ggml.eos_token_id", EOS);
  metadata.u32("tokenizer.ggml.unknown_token_id", 0);
  metadata.bool("tokenizer.ggml.add_bos_token", true);
  metadata.bool("tokenizer.ggml.add_eos_token", false);
}

function metadataOf(shape, dtype) {
  const metadata = new Metadata();
  const arch = shape.architecture;
  metadata.string("general.architecture", arch);
  metadata.string("general.name", `${shape.name} shape, random weights`);
  metadata.u32("general.alignment", ALIGNMENT);
  metadata.u32("general.file_type", FILE_TYPE[dtype]);
  metadata.u32(`${arch}.context_length`, shape.maxPositions);
  metadata.u32(`${arch}.embedding_length`, shape.hidden);
  metadata.u32(`${arch}.block_count`, shape.layers);
  metadata.u32(`${arch}.feed_forward_length`, shape.ff);
  metadata.u32(`${arch}.attention.head_count`, shape.heads);
  metadata.u32(`${arch}.attention.head_count_kv`, shape.kvHeads);
  metadata.f32(`${arch}.attention.layer_norm_rms_epsilon`, shape.eps);
  metadata.u32(`${arch}.rope.dimension_count`, shape.headDim);
  metadata.f32(`${arch}.rope.freq_base`, shape.ropeTheta);
  metadata.u32(`${arch}.vocab_size`, shape.vocab);
  addVocabulary(metadata, shape.vocab);
  return metadata;
}

const NAMES = {
  input_layernorm: "attn_norm",
  post_attention_layernorm: "ffn_norm",
  "self_attn.q_proj": "attn_q",
  "self_attn.k_proj": "attn_k",
  "self_attn.v_proj": "attn_v",
  "self_attn.o_proj": "attn_output",
  "mlp.gate_proj": "ffn_gate",
  "mlp.up_proj": "ffn_up",
  "mlp.down_proj": "ffn_down",
};

function ggufName(name) {
  if (name === "model.embed_tokens.weight") return "token_embd.weight";
  if (name === "lm_head.weight") return "output.weight";
  if (name === "model.norm.weight") return "output_norm.weight";
  const [, layer, part, kind] = /^model\.layers\.(\d+)\.(.+)\.(weight|bias)$/.exec(name);
  return `blk.${layer}.${NAMES[part]}.${kind}`;
}

/**
 * The llama architecture of GGUF rotates neighbours, Hugging Face the halves of a head: row i of half j goes to
 * row 2 i + j. Returns the heads whose rows must move, 0 for none.
 */
function headsToPermute(name, shape) {
  if (shape.architecture !== "llama") return 0;
  if (name.includes("self_attn.q_proj")) return shape.heads;
  return name.includes("self_attn.k_proj") ? shape.kvHeads : 0;
}

/** Rows [rows, bytes / rows] in the order of neighbours. */
export function permuteRows(data, rows, heads) {
  const out = Buffer.alloc(data.length);
  const stride = data.length / rows;
  const half = rows / heads / 2;
  for (let head = 0; head < heads; ++head) {
    for (let j = 0; j < 2; ++j) {
      for (let i = 0; i < half; ++i) {
        const from = (head * 2 * half + j * half + i) * stride;
        data.copy(out, (head * 2 * half + 2 * i + j) * stride, from, from + stride);
      }
    }
  }
  return out;
}

/** Vectors are f32 in GGUF. */
function widened(data, dtype) {
  if (dtype === "f32") return data;
  const out = Buffer.alloc(data.length * 2);
  for (let i = 0; i < data.length / 2; ++i) data.copy(out, 4 * i + 2, 2 * i, 2 * i + 2);
  return out;
}

/** By how much each frequency is divided, llama3's rule; undefined without scaling. */
export function ropeFactors(shape) {
  const scaling = shape.ropeScaling;
  if (scaling === undefined) return undefined;
  const {
    factor,
    low_freq_factor: low,
    high_freq_factor: high,
    original_max_position_embeddings: positions,
  } = scaling;
  return Float32Array.from({ length: shape.headDim / 2 }, (_, i) => {
    const wavelength = 2 * Math.PI * shape.ropeTheta ** ((2 * i) / shape.headDim);
    if (wavelength < positions / high) return 1;
    if (wavelength > positions / low) return factor;
    const smooth = (positions / wavelength - low) / (high - low);
    return 1 / ((1 - smooth) / factor + smooth);
  });
}

/** Tensors of the GGUF file: name, extents innermost first, type, and a function that gives their bytes. */
function ggufTensors(fd, header, dataStart, shape, dtype) {
  const tensors = tensorsOf(shape).map((tensor) => {
    const vector = tensor.shape.length === 1;
    const [begin, end] = header[tensor.name].data_offsets;
    const heads = headsToPermute(tensor.name, shape);
    return {
      name: ggufName(tensor.name),
      extents: [...tensor.shape].reverse(),
      type: vector ? "f32" : dtype,
      bytes: (end - begin) * (vector && dtype === "bf16" ? 2 : 1),
      read() {
        const data = Buffer.alloc(end - begin);
        fs.readSync(fd, data, 0, data.length, dataStart + begin);
        if (heads > 0) return permuteRows(data, tensor.shape[0], heads);
        return vector ? widened(data, dtype) : data;
      },
    };
  });
  const factors = ropeFactors(shape);
  if (factors !== undefined) {
    const data = Buffer.from(factors.buffer);
    tensors.push({
      name: "rope_freqs.weight",
      extents: [factors.length],
      type: "f32",
      bytes: data.length,
      read: () => data,
    });
  }
  return tensors;
}

/**
 * The GGUF file beside a checkpoint that ensureCheckpoint wrote, converted when it is not there.
 * @returns {string} its path
 */
export function ensureGguf(directory, shape, dtype) {
  const file = path.join(directory, "model.gguf");
  if (fs.existsSync(file)) return file;
  const config = JSON.parse(fs.readFileSync(path.join(directory, "config.json"), "utf8"));
  if (JSON.stringify(config) !== JSON.stringify(configOf(shape, dtype))) {
    throw new Error(`${shape.name}: the cached checkpoint has another shape; delete its folder`);
  }
  const input = fs.openSync(path.join(directory, "model.safetensors"), "r");
  const unfinished = `${file}.${process.pid}`;
  const output = fs.openSync(unfinished, "w");
  try {
    const length = Buffer.alloc(8);
    fs.readSync(input, length, 0, 8, 0);
    const headerBytes = Number(length.readBigUInt64LE());
    const text = Buffer.alloc(headerBytes);
    fs.readSync(input, text, 0, headerBytes, 8);
    const tensors = ggufTensors(input, JSON.parse(text.toString()), 8 + headerBytes, shape, dtype);
    const metadata = metadataOf(shape, dtype);
    let offset = 0;
    const infos = [];
    for (const { name, extents, type, bytes } of tensors) {
      infos.push(string(name), u32(extents.length), ...extents.map(u64), u32(TENSOR[type]), u64(offset));
      offset += padded(bytes);
    }
    const head = Buffer.concat([
      Buffer.from("GGUF"),
      u32(3),
      u64(tensors.length),
      u64(metadata.count),
      ...metadata.parts,
      ...infos,
    ]);
    fs.writeSync(output, head);
    fs.writeSync(output, Buffer.alloc(padded(head.length) - head.length));
    for (const { bytes, read } of tensors) {
      fs.writeSync(output, read());
      fs.writeSync(output, Buffer.alloc(padded(bytes) - bytes));
    }
  } finally {
    fs.closeSync(input);
    fs.closeSync(output);
  }
  fs.renameSync(unfinished, file);
  return file;
}
