// Writes small models of random shape and weights, so that properties are tested on more than the golden ones.
#pragma once

#include <cstdint>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "files/temporary_directory.h"

namespace longhaul::testing {

struct RandomModel {
  int layers = 2;
  int heads = 4;
  int kv_heads = 2;
  int head_dim = 16;
  int hidden = 32;
  int ff = 48;
  int vocab = 64;
  int max_positions = 4096;
  bool qk_norm = false;  // Qwen3 instead of Llama
  float norm = 1;        // mean of the norms' weights
  uint32_t seed = 1;
};

struct NamedTensor {
  std::string name;
  std::vector<int> shape;
  std::vector<float> values;
};

// The weights of the model, in the order of its file.
inline std::vector<NamedTensor> random_tensors(const RandomModel& m) {
  std::vector<NamedTensor> tensors{{"model.embed_tokens.weight", {m.vocab, m.hidden}, {}},
                                   {"lm_head.weight", {m.vocab, m.hidden}, {}},
                                   {"model.norm.weight", {m.hidden}, {}}};
  for (int i = 0; i < m.layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    const int q = m.heads * m.head_dim;
    const int kv = m.kv_heads * m.head_dim;
    tensors.push_back({layer + "input_layernorm.weight", {m.hidden}, {}});
    tensors.push_back({layer + "post_attention_layernorm.weight", {m.hidden}, {}});
    tensors.push_back({layer + "self_attn.q_proj.weight", {q, m.hidden}, {}});
    tensors.push_back({layer + "self_attn.k_proj.weight", {kv, m.hidden}, {}});
    tensors.push_back({layer + "self_attn.v_proj.weight", {kv, m.hidden}, {}});
    tensors.push_back({layer + "self_attn.o_proj.weight", {m.hidden, q}, {}});
    if (m.qk_norm) {
      tensors.push_back({layer + "self_attn.q_norm.weight", {m.head_dim}, {}});
      tensors.push_back({layer + "self_attn.k_norm.weight", {m.head_dim}, {}});
    }
    tensors.push_back({layer + "mlp.gate_proj.weight", {m.ff, m.hidden}, {}});
    tensors.push_back({layer + "mlp.up_proj.weight", {m.ff, m.hidden}, {}});
    tensors.push_back({layer + "mlp.down_proj.weight", {m.hidden, m.ff}, {}});
  }

  std::mt19937 random(m.seed);
  for (NamedTensor& tensor : tensors) {
    size_t count = 1;
    for (int extent : tensor.shape) count *= static_cast<size_t>(extent);
    // Norms near one, matrices wide enough that attention is peaked: scores then differ between rows.
    const bool norm = tensor.shape.size() == 1;
    std::normal_distribution<float> normal(norm ? m.norm : 0.0f, norm ? 0.1f : 0.3f);
    for (size_t i = 0; i < count; ++i) tensor.values.push_back(normal(random));
  }
  return tensors;
}

inline void write_model(const RandomModel& m, const std::vector<NamedTensor>& tensors,
                        const std::string& directory) {
  std::ofstream(directory + "/config.json")
      << "{\"architectures\":[\"" << (m.qk_norm ? "Qwen3ForCausalLM" : "LlamaForCausalLM")
      << "\"],\"hidden_act\":\"silu\",\"hidden_size\":" << m.hidden << ",\"intermediate_size\":" << m.ff
      << ",\"num_hidden_layers\":" << m.layers << ",\"num_attention_heads\":" << m.heads
      << ",\"num_key_value_heads\":" << m.kv_heads << ",\"head_dim\":" << m.head_dim
      << ",\"vocab_size\":" << m.vocab << ",\"max_position_embeddings\":" << m.max_positions
      << ",\"rms_norm_eps\":1e-6,\"rope_theta\":10000.0,"
         "\"tie_word_embeddings\":false,\"attention_bias\":false}";

  std::string header = "{";
  std::vector<float> data;
  for (const auto& [name, shape, values] : tensors) {
    std::string extents;
    for (int extent : shape) {
      if (!extents.empty()) extents += ',';
      extents += std::to_string(extent);
    }
    const size_t begin = data.size() * sizeof(float);
    data.insert(data.end(), values.begin(), values.end());
    header += (header.size() > 1 ? ",\"" : "\"") + name + "\":{\"dtype\":\"F32\",\"shape\":[" + extents +
              "],\"data_offsets\":[" + std::to_string(begin) + "," +
              std::to_string(data.size() * sizeof(float)) + "]}";
  }
  header += "}";
  while (header.size() % 8 != 0) header += ' ';
  std::ofstream file(directory + "/model.safetensors", std::ios::binary);
  const uint64_t length = header.size();
  file.write(reinterpret_cast<const char*>(&length), sizeof length);
  file.write(header.data(), static_cast<std::streamsize>(header.size()));
  file.write(reinterpret_cast<const char*>(data.data()),
             static_cast<std::streamsize>(data.size() * sizeof(float)));
}

inline void write_model(const RandomModel& m, const std::string& directory) {
  write_model(m, random_tensors(m), directory);
}

}  // namespace longhaul::testing
