#include <algorithm>
#include <cmath>

#include "reference/reference.h"
#include "reference/rows.h"

namespace longhaul::reference {
namespace {

// Average over `kernel` neighbours; rows outside count as zero and the divisor stays the kernel.
std::vector<double> pool(const std::vector<double>& x, int32_t kernel) {
  const auto count = static_cast<int64_t>(x.size());
  std::vector<double> out(x.size());
  for (int64_t i = 0; i < count; ++i) {
    double sum = 0;
    for (int64_t j = std::max<int64_t>(i - kernel / 2, 0); j <= std::min(i + kernel / 2, count - 1); ++j) {
      sum += x[static_cast<size_t>(j)];
    }
    out[static_cast<size_t>(i)] = sum / kernel;
  }
  return out;
}

}  // namespace

Status score_keys(Stream&, const ScoreKeysArgs& a, Workspace) {
  const int64_t queries = a.q.shape[0];
  const int64_t dim = a.q.shape[2];
  const auto group = static_cast<int32_t>(a.q.shape[1] / a.kv_heads);
  std::vector<double> q, weights;
  for (int32_t kv = 0; kv < a.kv_heads; ++kv) {
    const int32_t rows = std::max(a.view->length[kv] - a.ignore_last, 0);
    const int32_t scored = std::max(rows - a.window, 0);
    const std::vector<double> keys = load_head(a.pages.k, *a.view, kv, rows);
    std::vector<double> scores(static_cast<size_t>(scored), 0);
    for (int32_t h = kv * group; h < (kv + 1) * group; ++h) {
      for (int64_t t = 0; t < queries; ++t) {
        const int64_t visible = a.window == 0 ? rows : std::max<int64_t>(rows - a.window + t + 1, 0);
        load_row(a.q, row_at(a.q, t, h), q);
        weights.resize(static_cast<size_t>(visible));
        double largest = -HUGE_VAL;
        for (int64_t j = 0; j < visible; ++j) {
          const double s = static_cast<double>(a.scale) * dot(q.data(), keys.data() + j * dim, dim);
          weights[static_cast<size_t>(j)] = s;
          largest = std::max(largest, s);
        }
        double sum = 0;
        for (double& w : weights) sum += w = std::exp(w - largest);
        for (int32_t j = 0; j < scored; ++j) {
          const double weight = weights[static_cast<size_t>(j)] / sum;
          double& score = scores[static_cast<size_t>(j)];
          score = a.reduce == ScoreReduce::kMax ? std::max(score, weight) : score + weight;
        }
      }
    }
    if (a.reduce == ScoreReduce::kMean) {
      for (double& s : scores) s /= static_cast<double>(queries * group);
    }
    if (a.pool_kernel > 1) scores = pool(scores, a.pool_kernel);
    store(a.scores.data, a.scores.dtype, row_at(a.scores, kv), scored, scores.data());
  }
  return Status();
}

Status key_diversity(Stream&, const KeyDiversityArgs& a, Workspace) {
  const int64_t dim = row_length(a.pages.k);
  for (int32_t kv = 0; kv < a.kv_heads; ++kv) {
    const int32_t rows = std::max(a.view->length[kv] - a.ignore_last, 0);
    std::vector<double> units = load_head(a.pages.k, *a.view, kv, rows);
    std::vector<double> anchor(static_cast<size_t>(dim), 0);
    for (int32_t r = 0; r < rows; ++r) {
      double* u = units.data() + r * dim;
      const double norm = std::sqrt(dot(u, u, dim));
      for (int64_t d = 0; d < dim; ++d) {
        if (norm > 0) u[d] /= norm;
        anchor[static_cast<size_t>(d)] += u[d] / rows;
      }
    }
    const double norm = std::sqrt(dot(anchor.data(), anchor.data(), dim));
    std::vector<double> scores(static_cast<size_t>(rows), 0);
    for (int32_t r = 0; r < rows && norm > 0; ++r) {
      scores[static_cast<size_t>(r)] = -dot(units.data() + r * dim, anchor.data(), dim) / norm;
    }
    store(a.scores.data, a.scores.dtype, row_at(a.scores, kv), rows, scores.data());
  }
  return Status();
}

}  // namespace longhaul::reference
