// The parameters of a Llama-family model, packed for one backend.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/backend.h"
#include "files/safetensors.h"
#include "model/config.h"

namespace longhaul {

// A vector of f32 in device memory.
struct Vector {
  Buffer buffer;
  Tensor tensor;  // [n] f32; empty when the model has none
};

struct LayerWeights {
  Vector attention_norm;  // [hidden]
  Weight qkv;             // [(heads + 2 * kv_heads) * head_dim, hidden]: q, k, v stacked
  Vector qkv_bias;
  Vector q_norm, k_norm;  // [head_dim], Qwen3
  Weight output;          // [hidden, heads * head_dim]
  Vector output_bias;
  Vector mlp_norm;  // [hidden]
  Weight gate_up;   // [2 * ff, hidden]: gate, up stacked
  Vector gate_up_bias;
  Weight down;  // [hidden, ff]
  Vector down_bias;
};

struct ModelWeights {
  DType dtype = DType::kF32;  // of all matrices
  Weight embedding;           // [vocab, hidden]
  Weight lm_head;             // [vocab, hidden]; empty when tied to the embedding
  Vector final_norm;          // [hidden]
  Vector rope_frequencies;    // [head_dim / 2] f64
  std::vector<LayerWeights> layers;

  const Weight& output_embedding() const { return lm_head.rows > 0 ? lm_head : embedding; }
};

// The type of a checkpoint's matrices, for which the embedding stands: config.json often says another. Reads no
// more than the files' headers.
Result<DType> read_weights_dtype(const std::string& directory);

// Told after each tensor; false stops the loading with kCancelled.
using LoadProgress = std::function<bool(int64_t bytes_done, int64_t bytes_total)>;

// Reads every parameter the configuration asks for, checks shapes and values, packs it and gives the file's
// pages back, tensor by tensor. kCorruptFile names the tensor: missing, wrong shape, NaN or infinity inside.
Result<ModelWeights> load_weights(Backend& backend, Stream& stream, const ModelConfig& config,
                                  const std::string& directory, const LoadProgress& progress);

}  // namespace longhaul
