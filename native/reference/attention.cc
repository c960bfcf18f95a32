#include <algorithm>
#include <cmath>
#include <limits>

#include "reference/reference.h"
#include "reference/rows.h"

namespace longhaul::reference {
namespace {

constexpr double kNothing = -std::numeric_limits<double>::infinity();

// log(sum(exp(x))), -inf over nothing.
double log_sum_exp(const std::vector<double>& x) {
  double largest = kNothing;
  for (double v : x) largest = std::max(largest, v);
  if (largest == kNothing) return kNothing;
  double sum = 0;
  for (double v : x) sum += std::exp(v - largest);
  return largest + std::log(sum);
}

}  // namespace

Status attention(Stream&, const AttentionArgs& a, Workspace) {
  const int64_t dim = a.q.shape[2];
  const auto group = static_cast<int32_t>(a.q.shape[1] / a.kv_heads);
  std::vector<double> q, scores, out;
  for (int64_t s = 0; s < a.sequences; ++s) {
    const CacheView& view = a.views[s];
    for (int32_t kv = 0; kv < a.kv_heads; ++kv) {
      const int32_t length = view.length[kv];
      const std::vector<double> keys = load_head(a.pages.k, view, kv, length);
      const std::vector<double> values = load_head(a.pages.v, view, kv, length);
      for (int32_t h = kv * group; h < (kv + 1) * group; ++h) {
        for (int32_t i = 0; i < view.row_count; ++i) {
          const int64_t row = view.row_begin + i;
          const int32_t visible = std::clamp(length - view.row_count + i + 1 + view.ahead, 0, length);
          load_row(a.q, row_at(a.q, row, h), q);
          scores.resize(static_cast<size_t>(visible));
          for (int32_t j = 0; j < visible; ++j) {
            scores[static_cast<size_t>(j)] =
                static_cast<double>(a.scale) * dot(q.data(), keys.data() + j * dim, dim);
          }
          const double lse = log_sum_exp(scores);
          out.assign(static_cast<size_t>(dim), 0);
          for (int32_t j = 0; j < visible; ++j) {
            const double weight = std::exp(scores[static_cast<size_t>(j)] - lse);
            for (int64_t d = 0; d < dim; ++d)
              out[static_cast<size_t>(d)] += weight * values[static_cast<size_t>(j * dim + d)];
          }
          store_row(a.out, row_at(a.out, row, h), out);
          if (a.lse) store(a.lse.data, a.lse.dtype, row * a.lse.stride[0] + h, 1, &lse);
          if (a.state) store_state(a.state, row, h, lse);
        }
      }
    }
  }
  return Status();
}

Status merge_states(Stream&, const MergeStatesArgs& a) {
  const int64_t splits = a.parts.shape[0];
  const int64_t rows = a.parts.shape[1];
  const int64_t heads = a.parts.shape[2];
  std::vector<double> part, out, lses(static_cast<size_t>(splits));
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t s = 0; s < splits; ++s) {
        lses[static_cast<size_t>(s)] = a.parts_lse.as<float>()[(s * rows + i) * heads + h];
      }
      const double lse = log_sum_exp(lses);
      out.assign(static_cast<size_t>(a.parts.shape[3]), 0);
      for (int64_t s = 0; s < splits; ++s) {
        // A part that saw no key may hold anything, NaN too.
        if (lses[static_cast<size_t>(s)] == kNothing) continue;
        const double weight = std::exp(lses[static_cast<size_t>(s)] - lse);
        load_row(a.parts, row_at(a.parts, s, i, h), part);
        for (size_t d = 0; d < out.size(); ++d) out[d] += weight * part[d];
      }
      store_row(a.out, row_at(a.out, i, h), out);
      store(a.lse.data, a.lse.dtype, i * heads + h, 1, &lse);
    }
  }
  return Status();
}

}  // namespace longhaul::reference
