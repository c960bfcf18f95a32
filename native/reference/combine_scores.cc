#include <cmath>
#include <limits>

#include "reference/reference.h"
#include "reference/rows.h"

namespace longhaul::reference {
namespace {

struct Spread {
  double mean = 0;
  double deviation = 0;

  double z(double x) const {
    if (!std::isfinite(x)) return std::numeric_limits<double>::quiet_NaN();
    return deviation > 0 ? (x - mean) / deviation : 0;
  }
};

Spread spread_of(const std::vector<std::vector<double>>& heads) {
  int64_t count = 0;
  double sum = 0;
  double squares = 0;
  for (const auto& head : heads) {
    for (double x : head) {
      if (!std::isfinite(x)) continue;
      sum += x;
      ++count;
    }
  }
  const double mean = count > 0 ? sum / static_cast<double>(count) : 0;
  for (const auto& head : heads) {
    for (double x : head) {
      if (std::isfinite(x)) squares += (x - mean) * (x - mean);
    }
  }
  return {mean, count > 0 ? std::sqrt(squares / static_cast<double>(count)) : 0};
}

bool lies_in(const Tensor& spans, int32_t position) {
  const int64_t count = spans ? spans.shape[0] : 0;
  for (int64_t s = 0; s < count; ++s) {
    const int32_t* span = spans.as<int32_t>() + 2 * s;
    if (position >= span[0] && position < span[1]) return true;
  }
  return false;
}

std::vector<std::vector<double>> load_scores(const Tensor& scores, const CombineScoresArgs& a) {
  std::vector<std::vector<double>> heads(static_cast<size_t>(a.kv_heads));
  for (int32_t h = 0; h < a.kv_heads; ++h) {
    auto& head = heads[static_cast<size_t>(h)];
    head.resize(static_cast<size_t>(std::max(a.view->length[h] - a.ignore_last, 0)));
    load(scores.data, scores.dtype, row_at(scores, h), static_cast<int64_t>(head.size()), head.data());
  }
  return heads;
}

}  // namespace

Status combine_scores(Stream&, const CombineScoresArgs& a, Workspace) {
  std::vector<std::vector<double>> scores = load_scores(a.scores, a);
  std::vector<std::vector<double>> other;
  if (a.other) other = load_scores(a.other, a);
  const Spread of_scores = spread_of(scores);
  const Spread of_other = spread_of(other);
  const int32_t* positions = a.pages.positions.as<int32_t>();
  for (int32_t h = 0; h < a.kv_heads; ++h) {
    auto& head = scores[static_cast<size_t>(h)];
    for (size_t r = 0; r < head.size(); ++r) {
      head[r] = of_scores.z(head[r]);
      if (a.other) head[r] += static_cast<double>(a.weight) * of_other.z(other[static_cast<size_t>(h)][r]);
      if (lies_in(a.spans, positions[slot_of(*a.view, h, static_cast<int32_t>(r))])) {
        head[r] += static_cast<double>(a.bonus);
      }
    }
    store(a.scores.data, a.scores.dtype, row_at(a.scores, h), static_cast<int64_t>(head.size()), head.data());
  }
  return Status();
}

}  // namespace longhaul::reference
