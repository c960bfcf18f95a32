#include <algorithm>
#include <cmath>
#include <limits>

#include "reference/reference.h"
#include "reference/rows.h"

namespace longhaul::reference {
namespace {

constexpr double kNothing = -std::numeric_limits<double>::infinity();

}  // namespace

Status dense_attention(Stream&, const DenseAttentionArgs& a, Workspace) {
  const int64_t rows = a.q.shape[0];
  const int64_t heads = a.q.shape[1];
  const int64_t group = heads / a.k.shape[1];
  const auto dim = static_cast<size_t>(a.q.shape[2]);
  std::vector<double> q, key, value, scores, out(dim);
  std::vector<const AttentionSpan*> span_of(static_cast<size_t>(rows));
  for (int32_t s = 0; s < a.span_count; ++s) {
    std::fill_n(span_of.begin() + a.spans[s].q_begin, a.spans[s].q_count, a.spans + s);
  }
  for (int64_t row = 0; row < rows; ++row) {
    const AttentionSpan span =
        span_of[static_cast<size_t>(row)] ? *span_of[static_cast<size_t>(row)] : AttentionSpan{};
    const int64_t visible = std::clamp<int64_t>(span.offset + row - span.q_begin + 1, 0, span.k_count);
    if (a.accumulate && visible == 0) continue;
    for (int64_t h = 0; h < heads; ++h) {
      // A state that is there counts as one more key: its score is its lse, its value is what it holds.
      double lse = kNothing;
      std::fill(out.begin(), out.end(), 0);
      if (a.accumulate && load_state(a.state, row, h) != kNothing) {
        lse = load_state(a.state, row, h);
        load_row(a.out, row_at(a.out, row, h), out);
      }
      load_row(a.q, row_at(a.q, row, h), q);
      scores.resize(static_cast<size_t>(visible));
      double largest = lse;
      for (int64_t j = 0; j < visible; ++j) {
        load_row(a.k, row_at(a.k, span.k_begin + j, h / group), key);
        double& score = scores[static_cast<size_t>(j)];
        score = static_cast<double>(a.scale) * dot(q.data(), key.data(), a.q.shape[2]);
        largest = std::max(largest, score);
      }
      if (largest == kNothing) largest = 0;
      double sum = std::exp(lse - largest);
      for (double& x : out) x *= sum;
      for (int64_t j = 0; j < visible; ++j) {
        const double weight = std::exp(scores[static_cast<size_t>(j)] - largest);
        sum += weight;
        load_row(a.v, row_at(a.v, span.k_begin + j, h / group), value);
        for (size_t d = 0; d < dim; ++d) out[d] += weight * value[d];
      }
      if (sum > 0) {
        for (double& x : out) x /= sum;
      }
      store_row(a.out, row_at(a.out, row, h), out);
      lse = sum > 0 ? largest + std::log(sum) : kNothing;
      store(a.lse.data, a.lse.dtype, row * heads + h, 1, &lse);
      if (a.state) store_state(a.state, row, h, lse);
    }
  }
  return Status();
}

}  // namespace longhaul::reference
