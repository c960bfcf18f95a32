// One adapter of a small model: its configuration and the tensors that have to be there, for tests to change.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "mole/adapter_bytes.h"
#include "mole/adapter_file.h"

namespace longhaul {

// Every size is another, so that no two can be confused.
inline constexpr AdaptedModel kSmallModel = {
    .layers = 2, .hidden = 6, .intermediate = 10, .q_size = 8, .kv_size = 4};

struct AdapterCase {
  std::string config;
  std::vector<MadeTensor> tensors;

  // Puts another value behind a key of the configuration, or a new key in front.
  AdapterCase with(const std::string& key, const std::string& value) const {
    AdapterCase changed = *this;
    const size_t at = changed.config.find("\"" + key + "\":");
    if (at == std::string::npos) {
      changed.config.insert(1, "\"" + key + "\":" + value + ",");
      return changed;
    }
    const size_t begin = at + key.size() + 3;
    size_t end = begin;
    for (int depth = 0; depth > 0 || (changed.config[end] != ',' && changed.config[end] != '}'); ++end) {
      depth += changed.config[end] == '[' || changed.config[end] == '{';
      depth -= changed.config[end] == ']' || changed.config[end] == '}';
    }
    changed.config.replace(begin, end - begin, value);
    return changed;
  }

  Result<Adapter> read(bool torch = false) const {
    LONGHAUL_ASSIGN(const Json json, parse_json(config, "adapter_config.json"));
    LONGHAUL_ASSIGN(const AdapterConfig parsed, parse_adapter_config(json));
    const std::string bytes = torch ? made_torch(tensors) : made_safetensors(tensors);
    LONGHAUL_ASSIGN(const AdapterTensors file, AdapterTensors::parse(as_bytes(bytes), "adapter_model"));
    return read_adapter(parsed, file, kSmallModel);
  }

  void expect_refused(Code code, std::string_view why) const {
    const Result<Adapter> adapter = read();
    ASSERT_FALSE(adapter.ok()) << why;
    EXPECT_EQ(adapter.status().code(), code) << adapter.status().message();
    EXPECT_NE(adapter.status().message().find(why), std::string::npos) << adapter.status().message();
  }
};

// The elements of `tensor` are those that made_value gives `name`.
inline void expect_made(const Tensor& tensor, const std::string& name) {
  ASSERT_TRUE(tensor) << name;
  int64_t wrong = 0;
  for (int64_t i = 0; i < tensor.elements(); ++i) {
    const float value = tensor.dtype == DType::kF32    ? tensor.as<float>()[i]
                        : tensor.dtype == DType::kBf16 ? to_f32(tensor.as<Bf16>()[i])
                                                       : to_f32(tensor.as<F16>()[i]);
    wrong += value != made_value(name, i);
  }
  EXPECT_EQ(wrong, 0) << name;
}

inline const char* module_of(Projection p) {
  return p <= Projection::kO ? "self_attn" : "mlp";
}

// A and B of one LoRA, for [out, in].
inline void add_lora(std::vector<MadeTensor>& tensors, const std::string& name, int64_t rank, Projection p,
                     DType dtype = DType::kF32) {
  tensors.push_back({name + ".lora_A.weight", {rank, kSmallModel.inputs(p)}, dtype});
  tensors.push_back({name + ".lora_B.weight", {kSmallModel.outputs(p), rank}, dtype});
}

}  // namespace longhaul
