#include "model/weights.h"

#include <cmath>

namespace longhaul {
namespace {

std::string shape_text(const Tensor& t) {
  std::string text = "[";
  for (int i = 0; i < t.rank; ++i) text += (i ? ", " : "") + std::to_string(t.shape[i]);
  return text + "]";
}

// All exponent bits set means NaN or infinity, whatever the type: one mask, one pass, no conversion.
template <class Bits>
bool all_finite(const Tensor& t, Bits exponent) {
  const Bits* bits = t.as<const Bits>();
  const int64_t count = t.elements();
  bool bad = false;
  for (int64_t i = 0; i < count; ++i) bad |= (bits[i] & exponent) == exponent;
  return !bad;
}

bool all_finite(const Tensor& t) {
  switch (t.dtype) {
    case DType::kF32:
      return all_finite<uint32_t>(t, 0x7f800000u);
    case DType::kBf16:
      return all_finite<uint16_t>(t, 0x7f80u);
    case DType::kF16:
      return all_finite<uint16_t>(t, 0x7c00u);
    default:
      return false;
  }
}

const std::string kEmbedding = "model.embed_tokens.weight";

// f32 where there is no such tensor, or one of no known type: reading it says what is wrong.
DType matrix_dtype(const Checkpoint& checkpoint) {
  const TensorEntry* entry = checkpoint.find(kEmbedding);
  return entry == nullptr ? DType::kF32 : entry->dtype.value_or(DType::kF32);
}

class Loader {
 public:
  Loader(Backend& backend, Stream& stream, const Checkpoint& checkpoint, DType dtype,
         const LoadProgress& progress)
      : backend_(backend), stream_(stream), checkpoint_(checkpoint), progress_(progress), dtype_(dtype) {
    for (std::string_view name : checkpoint.names())
      total_ += static_cast<int64_t>(checkpoint.find(name)->bytes);
  }

  DType dtype() const { return dtype_; }

  // Reads `name`, checks it, and leaves it in sources_ until finish().
  Result<Tensor> read(const std::string& name, std::initializer_list<int64_t> shape) {
    if (checkpoint_.find(name) == nullptr) {
      return corrupt_file(checkpoint_.directory() + ": the checkpoint has no tensor '" + name +
                          "'; is it complete, and is config.json the one that belongs to it?");
    }
    LONGHAUL_ASSIGN(SourceTensor source, checkpoint_.load(name));
    const Tensor expected = Tensor::dense(nullptr, source.tensor.dtype, shape);
    if (expected.rank != source.tensor.rank || expected.shape != source.tensor.shape) {
      return corrupt_file(checkpoint_.directory() + ": tensor '" + name + "' has shape " +
                          shape_text(source.tensor) + ", config.json asks for " + shape_text(expected));
    }
    if (!is_float(source.tensor.dtype) || source.tensor.dtype == DType::kF64) {
      return unsupported(checkpoint_.directory() + ": tensor '" + name + "' is " +
                         name_of(source.tensor.dtype) + "; weights must be f32, bf16 or f16");
    }
    if (!all_finite(source.tensor)) {
      return corrupt_file(checkpoint_.directory() + ": tensor '" + name +
                          "' holds NaN or infinity; download the checkpoint again or convert it anew");
    }
    const Tensor tensor = source.tensor;
    sources_.push_back(std::move(source));
    names_.push_back(name);
    return tensor;
  }

  struct Part {
    std::string name;
    int64_t rows;
  };

  // Stacks [rows_i, cols] matrices.
  Result<Weight> matrix(std::initializer_list<Part> parts, int64_t cols) {
    std::vector<Tensor> tensors;
    for (const Part& part : parts) {
      LONGHAUL_ASSIGN(Tensor tensor, read(part.name, {part.rows, cols}));
      if (tensor.dtype != dtype_) {
        return unsupported(checkpoint_.directory() + ": tensor '" + part.name + "' is " +
                           name_of(tensor.dtype) + " in a checkpoint of " + name_of(dtype_) +
                           "; all matrices must have one type");
      }
      tensors.push_back(tensor);
    }
    LONGHAUL_ASSIGN(Weight weight, backend_.pack(tensors));
    LONGHAUL_TRY(finish());
    return weight;
  }

  // Stacks vectors, as f32.
  Result<Vector> vector(std::initializer_list<Part> parts) {
    std::vector<float> values;
    for (const Part& part : parts) {
      LONGHAUL_ASSIGN(Tensor tensor, read(part.name, {part.rows}));
      for (int64_t i = 0; i < part.rows; ++i) {
        values.push_back(tensor.dtype == DType::kF32    ? tensor.as<float>()[i]
                         : tensor.dtype == DType::kBf16 ? to_f32(tensor.as<Bf16>()[i])
                                                        : to_f32(tensor.as<F16>()[i]));
      }
    }
    LONGHAUL_TRY(finish());
    return upload(values.data(), DType::kF32, static_cast<int64_t>(values.size()));
  }

  Result<Vector> upload(const void* values, DType dtype, int64_t count) {
    Vector vector;
    LONGHAUL_ASSIGN(vector.buffer,
                    backend_.allocate(static_cast<size_t>(count) * size_of(dtype), MemoryUse::kWeights));
    vector.tensor = Tensor::dense(vector.buffer.data(), dtype, {count});
    LONGHAUL_TRY(backend_.upload(stream_, vector.buffer.data(), values, vector.buffer.bytes()));
    return vector;
  }

  // The rest of the file holds nothing the model uses (a copy of tied weights, say): that is done as well.
  Status complete() {
    done_ = total_;
    return finish();
  }

 private:
  // Gives the sources back and tells how far we are.
  Status finish() {
    sources_.clear();
    for (const std::string& name : names_) {
      done_ += static_cast<int64_t>(checkpoint_.find(name)->bytes);
      checkpoint_.release(name);
    }
    names_.clear();
    if (progress_ && !progress_(done_, total_)) return Status(Code::kCancelled, "loading was cancelled");
    return Status();
  }

  Backend& backend_;
  Stream& stream_;
  const Checkpoint& checkpoint_;
  const LoadProgress& progress_;
  DType dtype_;
  std::vector<SourceTensor> sources_;
  std::vector<std::string> names_;
  int64_t done_ = 0;
  int64_t total_ = 0;
};

Result<LayerWeights> load_layer(Loader& loader, const ModelConfig& config, int64_t index) {
  const std::string layer = "model.layers." + std::to_string(index) + ".";
  const std::string attention = layer + "self_attn.";
  const std::string mlp = layer + "mlp.";
  const int64_t q_rows = config.heads * config.head_dim;
  const int64_t kv_rows = config.kv_heads * config.head_dim;
  const int64_t hidden = config.hidden_size;
  const int64_t ff = config.intermediate_size;

  LayerWeights weights;
  LONGHAUL_ASSIGN(weights.attention_norm, loader.vector({{layer + "input_layernorm.weight", hidden}}));
  LONGHAUL_ASSIGN(weights.qkv, loader.matrix({{attention + "q_proj.weight", q_rows},
                                              {attention + "k_proj.weight", kv_rows},
                                              {attention + "v_proj.weight", kv_rows}},
                                             hidden));
  if (config.qkv_bias) {
    LONGHAUL_ASSIGN(weights.qkv_bias, loader.vector({{attention + "q_proj.bias", q_rows},
                                                     {attention + "k_proj.bias", kv_rows},
                                                     {attention + "v_proj.bias", kv_rows}}));
  }
  if (config.qk_norm) {
    LONGHAUL_ASSIGN(weights.q_norm, loader.vector({{attention + "q_norm.weight", config.head_dim}}));
    LONGHAUL_ASSIGN(weights.k_norm, loader.vector({{attention + "k_norm.weight", config.head_dim}}));
  }
  LONGHAUL_ASSIGN(weights.output, loader.matrix({{attention + "o_proj.weight", hidden}}, q_rows));
  if (config.o_bias) {
    LONGHAUL_ASSIGN(weights.output_bias, loader.vector({{attention + "o_proj.bias", hidden}}));
  }
  LONGHAUL_ASSIGN(weights.mlp_norm, loader.vector({{layer + "post_attention_layernorm.weight", hidden}}));
  LONGHAUL_ASSIGN(weights.gate_up,
                  loader.matrix({{mlp + "gate_proj.weight", ff}, {mlp + "up_proj.weight", ff}}, hidden));
  LONGHAUL_ASSIGN(weights.down, loader.matrix({{mlp + "down_proj.weight", hidden}}, ff));
  if (config.mlp_bias) {
    LONGHAUL_ASSIGN(weights.gate_up_bias,
                    loader.vector({{mlp + "gate_proj.bias", ff}, {mlp + "up_proj.bias", ff}}));
    LONGHAUL_ASSIGN(weights.down_bias, loader.vector({{mlp + "down_proj.bias", hidden}}));
  }
  return weights;
}

}  // namespace

Result<DType> read_weights_dtype(const std::string& directory) {
  LONGHAUL_ASSIGN(const Checkpoint checkpoint, Checkpoint::open(directory));
  return matrix_dtype(checkpoint);
}

Result<ModelWeights> load_weights(Backend& backend, Stream& stream, const ModelConfig& config,
                                  const std::string& directory, const LoadProgress& progress) {
  LONGHAUL_ASSIGN(const Checkpoint checkpoint, Checkpoint::open(directory));
  Loader loader(backend, stream, checkpoint, matrix_dtype(checkpoint), progress);
  const int64_t vocab = config.vocab_size;
  const int64_t hidden = config.hidden_size;

  ModelWeights weights;
  LONGHAUL_ASSIGN(weights.embedding, loader.matrix({{kEmbedding, vocab}}, hidden));
  weights.dtype = loader.dtype();
  // The largest matrices first: while one is packed its source is resident too, and now little else is.
  if (!config.tie_word_embeddings) {
    LONGHAUL_ASSIGN(weights.lm_head, loader.matrix({{"lm_head.weight", vocab}}, hidden));
  }
  for (int64_t index = 0; index < config.layers; ++index) {
    LONGHAUL_ASSIGN(LayerWeights layer, load_layer(loader, config, index));
    weights.layers.push_back(std::move(layer));
  }
  LONGHAUL_ASSIGN(weights.final_norm, loader.vector({{"model.norm.weight", hidden}}));
  const std::vector<double> frequencies = rope_frequencies(config);
  LONGHAUL_ASSIGN(weights.rope_frequencies,
                  loader.upload(frequencies.data(), DType::kF64, static_cast<int64_t>(frequencies.size())));
  LONGHAUL_TRY(loader.complete());
  return weights;
}

}  // namespace longhaul
