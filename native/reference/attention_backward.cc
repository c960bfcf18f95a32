#include <algorithm>
#include <cmath>

#include "reference/reference.h"
#include "reference/rows.h"

namespace longhaul::reference {
namespace {

// row += x, rounded once.
void add_row(const Tensor& t, int64_t offset, const std::vector<double>& x) {
  std::vector<double> row;
  load_row(t, offset, row);
  for (size_t d = 0; d < row.size(); ++d) row[d] += x[d];
  store_row(t, offset, row);
}

}  // namespace

// Sums over queries and keys are in double: one pass over the pairs for each gradient.
Status dense_attention_backward(Stream&, const DenseAttentionBackwardArgs& a) {
  const int64_t heads = a.q.shape[1];
  const int64_t group = heads / a.k.shape[1];
  const int64_t dim = a.q.shape[2];
  const auto width = static_cast<size_t>(dim);
  const auto keys = static_cast<size_t>(a.k.shape[0]);
  std::vector<double> q, key, value, out, d_out;
  for (int64_t kv = 0; kv < a.k.shape[1]; ++kv) {
    std::vector<std::vector<double>> d_k(keys, std::vector<double>(width)), d_v = d_k;
    for (int32_t s = 0; s < a.span_count; ++s) {
      const AttentionSpan& span = a.spans[s];
      for (int64_t i = 0; i < span.q_count; ++i) {
        const int64_t row = span.q_begin + i;
        const int64_t visible = std::clamp<int64_t>(span.offset + i + 1, 0, span.k_count);
        for (int64_t h = kv * group; h < (kv + 1) * group; ++h) {
          load_row(a.q, row_at(a.q, row, h), q);
          load_row(a.out, row_at(a.out, row, h), out);
          load_row(a.d_out, row_at(a.d_out, row, h), d_out);
          const double lse = a.lse.as<float>()[row * heads + h];
          const double delta = dot(d_out.data(), out.data(), dim);
          std::vector<double> d_q(width);
          for (int64_t j = span.k_begin; j < span.k_begin + visible; ++j) {
            load_row(a.k, row_at(a.k, j, kv), key);
            load_row(a.v, row_at(a.v, j, kv), value);
            const double p = std::exp(static_cast<double>(a.scale) * dot(q.data(), key.data(), dim) - lse);
            const double d_score =
                static_cast<double>(a.scale) * p * (dot(d_out.data(), value.data(), dim) - delta);
            for (size_t d = 0; d < width; ++d) {
              d_q[d] += d_score * key[d];
              d_k[static_cast<size_t>(j)][d] += d_score * q[d];
              d_v[static_cast<size_t>(j)][d] += p * d_out[d];
            }
          }
          add_row(a.d_q, row_at(a.d_q, row, h), d_q);
        }
      }
    }
    for (size_t j = 0; j < keys; ++j) {
      add_row(a.d_k, row_at(a.d_k, static_cast<int64_t>(j), kv), d_k[j]);
      add_row(a.d_v, row_at(a.d_v, static_cast<int64_t>(j), kv), d_v[j]);
    }
  }
  return Status();
}

}  // namespace longhaul::reference
