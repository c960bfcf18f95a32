// A RandomModel in plain loops of doubles, over rows that lie in vectors: what block-wise eviction must come
// to, written without anything of the engine. Observers go through it by themselves, behind the block's pass.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "random_model.h"

namespace longhaul::testing {

using Vector = std::vector<double>;

struct DenseRow {
  int32_t position = 0;
  Vector k, v;
};

// [layer][KV head], rows in time order.
using DenseCache = std::vector<std::vector<std::vector<DenseRow>>>;
// [layer][token][head], after RoPE.
using DenseQueries = std::vector<std::vector<std::vector<Vector>>>;

class DenseModel {
 public:
  // Whether the token at position `query` sees the one at `key`, which is not behind it.
  using Mask = std::function<bool(int32_t query, int32_t key)>;

  explicit DenseModel(const RandomModel& shape) : shape_(shape) {
    for (NamedTensor& tensor : random_tensors(shape)) weights_[tensor.name] = std::move(tensor);
  }

  DenseCache empty() const {
    return DenseCache(static_cast<size_t>(shape_.layers),
                      std::vector<std::vector<DenseRow>>(static_cast<size_t>(shape_.kv_heads)));
  }

  // Appends the tokens' rows to every head and returns the tokens' queries. Without a mask they see all that is
  // there.
  DenseQueries forward(DenseCache& cache, const std::vector<int32_t>& tokens, int32_t begin,
                       const Mask& sees = {}) const {
    DenseQueries queries(cache.size(), std::vector<std::vector<Vector>>(tokens.size()));
    for (size_t t = 0; t < tokens.size(); ++t) {
      const int32_t position = begin + static_cast<int32_t>(t);
      Vector x = row("model.embed_tokens.weight", tokens[t]);
      for (size_t layer = 0; layer < cache.size(); ++layer) {
        const std::string name = "model.layers." + std::to_string(layer) + ".";
        const Vector normed = norm(x, name + "input_layernorm.weight");
        const Vector q = times(name + "self_attn.q_proj.weight", normed);
        const Vector k = times(name + "self_attn.k_proj.weight", normed);
        const Vector v = times(name + "self_attn.v_proj.weight", normed);
        for (int head = 0; head < shape_.kv_heads; ++head) {
          cache[layer][static_cast<size_t>(head)].push_back(
              {position, finished(part(k, head), name + "self_attn.k_norm.weight", position), part(v, head)});
        }
        Vector attended;
        for (int head = 0; head < shape_.heads; ++head) {
          queries[layer][t].push_back(finished(part(q, head), name + "self_attn.q_norm.weight", position));
          const std::vector<DenseRow>& rows = cache[layer][kv_head(head)];
          const Vector weights = attention(queries[layer][t].back(), rows, [&](const DenseRow& row) {
            return !sees || sees(position, row.position);
          });
          Vector sum(static_cast<size_t>(shape_.head_dim), 0);
          for (size_t r = 0; r < rows.size(); ++r) {
            for (size_t d = 0; d < sum.size(); ++d) sum[d] += weights[r] * rows[r].v[d];
          }
          attended.insert(attended.end(), sum.begin(), sum.end());
        }
        add(x, times(name + "self_attn.o_proj.weight", attended));
        const Vector inner = norm(x, name + "post_attention_layernorm.weight");
        Vector gate = times(name + "mlp.gate_proj.weight", inner);
        const Vector up = times(name + "mlp.up_proj.weight", inner);
        for (size_t i = 0; i < gate.size(); ++i) gate[i] *= up[i] / (1 + std::exp(-gate[i]));
        add(x, times(name + "mlp.down_proj.weight", gate));
      }
    }
    return queries;
  }

  size_t kv_head(int head) const { return static_cast<size_t>(head / (shape_.heads / shape_.kv_heads)); }

  // The softmax of a query over those of `rows` that it sees, all of them unless told; 0 for the others.
  Vector attention(
      const Vector& q, const std::vector<DenseRow>& rows,
      const std::function<bool(const DenseRow&)>& seen = [](const DenseRow&) { return true; }) const {
    Vector weights;
    double total = 0;
    for (const DenseRow& row : rows) {
      double score = 0;
      for (size_t d = 0; d < q.size(); ++d) score += q[d] * row.k[d];
      weights.push_back(seen(row) ? std::exp(score / std::sqrt(static_cast<double>(q.size()))) : 0);
      total += weights.back();
    }
    for (double& weight : weights) weight /= total;
    return weights;
  }

 private:
  Vector row(const std::string& name, int32_t index) const {
    const NamedTensor& tensor = weights_.at(name);
    const auto begin = tensor.values.begin() + int64_t{index} * tensor.shape[1];
    return Vector(begin, begin + tensor.shape[1]);
  }

  Vector times(const std::string& name, const Vector& x) const {
    const NamedTensor& tensor = weights_.at(name);
    Vector out(static_cast<size_t>(tensor.shape[0]), 0);
    for (size_t r = 0; r < out.size(); ++r) {
      for (size_t c = 0; c < x.size(); ++c)
        out[r] += static_cast<double>(tensor.values[r * x.size() + c]) * x[c];
    }
    return out;
  }

  Vector norm(const Vector& x, const std::string& name) const {
    double squares = 0;
    for (double value : x) squares += value * value;
    const double root = std::sqrt(squares / static_cast<double>(x.size()) + 1e-6);
    Vector out = x;
    for (size_t i = 0; i < x.size(); ++i) out[i] *= static_cast<double>(weights_.at(name).values[i]) / root;
    return out;
  }

  Vector part(const Vector& x, int head) const {
    const auto begin = x.begin() + int64_t{head} * shape_.head_dim;
    return Vector(begin, begin + shape_.head_dim);
  }

  // What a head's query or key becomes: normed where the model has a norm for it, then rotated.
  Vector finished(const Vector& x, const std::string& norm_name, int32_t position) const {
    return rotated(shape_.qk_norm ? norm(x, norm_name) : x, position);
  }

  static Vector rotated(const Vector& x, int32_t position) {
    const size_t half = x.size() / 2;
    Vector out(x.size());
    for (size_t i = 0; i < half; ++i) {
      const double angle = position * std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(half));
      out[i] = x[i] * std::cos(angle) - x[i + half] * std::sin(angle);
      out[i + half] = x[i + half] * std::cos(angle) + x[i] * std::sin(angle);
    }
    return out;
  }

  static void add(Vector& x, const Vector& delta) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += delta[i];
  }

  RandomModel shape_;
  std::map<std::string, NamedTensor> weights_;
};

}  // namespace longhaul::testing
