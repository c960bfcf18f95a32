// A model of write_model() in plain loops over double, under any attention mask: the truth that windowed runs
// are compared with.
#pragma once

#include <cmath>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "model/safetensors.h"
#include "random_model.h"

namespace longhaul::testing {

class MaskedModel {
 public:
  using Values = std::vector<double>;
  // Whether the token at `query` sees the one at `key`, which is not behind it.
  using Mask = std::function<bool(int64_t query, int64_t key)>;

  MaskedModel(const RandomModel& shape, const std::string& directory)
      : shape_(shape), file_(std::move(SafetensorsFile::open(directory + "/model.safetensors").value())) {}

  // keys[layer][token]: [kv_heads * head_dim] after RoPE.
  std::vector<std::vector<Values>> keys(std::span<const int32_t> tokens, const Mask& sees) const {
    const size_t hidden = static_cast<size_t>(shape_.hidden);
    const Values embedding = tensor("model.embed_tokens.weight");
    std::vector<Values> x;
    for (int32_t token : tokens) {
      const auto row = embedding.begin() + static_cast<int64_t>(token) * shape_.hidden;
      x.emplace_back(row, row + static_cast<int64_t>(hidden));
    }
    std::vector<std::vector<Values>> keys;
    for (int layer = 0; layer < shape_.layers; ++layer) {
      const std::string name = "model.layers." + std::to_string(layer) + ".";
      keys.push_back(attend(name, x, sees));
      const Values norm = tensor(name + "post_attention_layernorm.weight");
      const Values gate = tensor(name + "mlp.gate_proj.weight");
      const Values up = tensor(name + "mlp.up_proj.weight");
      const Values down = tensor(name + "mlp.down_proj.weight");
      for (Values& row : x) {
        const Values normed = rms_norm(row, norm);
        Values inner = times(gate, normed);
        const Values factor = times(up, normed);
        for (size_t i = 0; i < inner.size(); ++i) inner[i] *= factor[i] / (1 + std::exp(-inner[i]));
        add(row, times(down, inner));
      }
    }
    return keys;
  }

 private:
  Values tensor(const std::string& name) const {
    const SourceTensor source = std::move(file_.load(name).value());
    const float* data = source.tensor.as<const float>();
    return Values(data, data + source.tensor.elements());
  }

  static Values times(const Values& matrix, const Values& x) {
    Values out(matrix.size() / x.size());
    for (size_t i = 0; i < matrix.size(); ++i) out[i / x.size()] += matrix[i] * x[i % x.size()];
    return out;
  }

  static void add(Values& x, const Values& more) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += more[i];
  }

  static Values rms_norm(const Values& x, const Values& weight) {
    double squares = 0;
    for (double value : x) squares += value * value;
    const double scale = 1 / std::sqrt(squares / static_cast<double>(x.size()) + 1e-6);
    Values out;
    for (size_t i = 0; i < x.size(); ++i) out.push_back(x[i] * scale * weight[i]);
    return out;
  }

  // Norm of each head where the model has one, then rotation.
  void finish_heads(Values& x, const std::string& norm, int64_t position) const {
    const size_t dim = static_cast<size_t>(shape_.head_dim);
    for (size_t head = 0; head < x.size(); head += dim) {
      Values one(x.begin() + static_cast<int64_t>(head), x.begin() + static_cast<int64_t>(head + dim));
      if (shape_.qk_norm) one = rms_norm(one, tensor(norm));
      for (size_t i = 0; i < dim / 2; ++i) {
        const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(dim);
        const double angle = static_cast<double>(position) * std::pow(10000.0, exponent);
        const double second = one[i + dim / 2];
        x[head + i] = one[i] * std::cos(angle) - second * std::sin(angle);
        x[head + i + dim / 2] = second * std::cos(angle) + one[i] * std::sin(angle);
      }
    }
  }

  // Adds a layer's attention to x; returns its keys.
  std::vector<Values> attend(const std::string& name, std::vector<Values>& x, const Mask& sees) const {
    const Values norm = tensor(name + "input_layernorm.weight");
    const Values wq = tensor(name + "self_attn.q_proj.weight");
    const Values wk = tensor(name + "self_attn.k_proj.weight");
    const Values wv = tensor(name + "self_attn.v_proj.weight");
    const Values wo = tensor(name + "self_attn.o_proj.weight");
    std::vector<Values> q, k, v;
    for (size_t t = 0; t < x.size(); ++t) {
      const Values normed = rms_norm(x[t], norm);
      q.push_back(times(wq, normed));
      k.push_back(times(wk, normed));
      v.push_back(times(wv, normed));
      finish_heads(q[t], name + "self_attn.q_norm.weight", static_cast<int64_t>(t));
      finish_heads(k[t], name + "self_attn.k_norm.weight", static_cast<int64_t>(t));
    }
    const size_t dim = static_cast<size_t>(shape_.head_dim);
    const size_t group = static_cast<size_t>(shape_.heads / shape_.kv_heads);
    for (size_t t = 0; t < x.size(); ++t) {
      Values attended(q[t].size());
      for (size_t head = 0; head < static_cast<size_t>(shape_.heads); ++head) {
        const size_t kv = head / group * dim;
        Values sum(dim);
        double weights = 0;
        for (size_t key = 0; key <= t; ++key) {
          if (!sees(static_cast<int64_t>(t), static_cast<int64_t>(key))) continue;
          double score = 0;
          for (size_t i = 0; i < dim; ++i) score += q[t][head * dim + i] * k[key][kv + i];
          const double weight = std::exp(score / std::sqrt(static_cast<double>(dim)));
          weights += weight;
          for (size_t i = 0; i < dim; ++i) sum[i] += weight * v[key][kv + i];
        }
        for (size_t i = 0; i < dim; ++i) attended[head * dim + i] = sum[i] / weights;
      }
      add(x[t], times(wo, attended));
    }
    return k;
  }

  RandomModel shape_;
  SafetensorsFile file_;
};

}  // namespace longhaul::testing
