// combine_scores: how each score is spread, head by head and merged in their order, then every row.
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/arena.h"
#include "cpu/backend.h"
#include "cpu/cache_rows.h"
#include "cpu/ops.h"

namespace longhaul::cpu {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// Count, mean and sum of squared distances from it: parts merge without the cancellation of plain sums of
// squares.
struct Moments {
  double count, mean, squares;
};

struct CombineWorkspace {
  Tensor moments;  // [2, kv_heads, 3] f64: of the scores, of the others

  static CombineWorkspace lay_out(Arena& arena, const CombineScoresArgs& a) {
    return {arena.take(DType::kF64, {2, a.kv_heads, 3})};
  }
};

Moments moments_of(const float* x, int32_t rows) {
  double count = 0;
  double sum = 0;
  for (int32_t r = 0; r < rows; ++r) {
    if (!std::isfinite(x[r])) continue;
    sum += static_cast<double>(x[r]);
    count += 1;
  }
  const double mean = count > 0 ? sum / count : 0;
  double squares = 0;
  for (int32_t r = 0; r < rows; ++r) {
    if (!std::isfinite(x[r])) continue;
    const double distance = static_cast<double>(x[r]) - mean;
    squares += distance * distance;
  }
  return {count, mean, squares};
}

Moments merge(const Moments& a, const Moments& b) {
  const double count = a.count + b.count;
  if (count == 0) return a;
  const double distance = b.mean - a.mean;
  return {count, a.mean + distance * (b.count / count),
          a.squares + b.squares + distance * distance * (a.count * b.count / count)};
}

// x to z(x) in two operations.
struct Scale {
  double mean, factor;  // 1 / deviation, or 0

  float operator()(float x) const {
    return std::isfinite(x) ? static_cast<float>((static_cast<double>(x) - mean) * factor) : kNaN;
  }
};

Scale scale_of(const double* moments, int32_t heads) {
  Moments all{0, 0, 0};
  for (int32_t h = 0; h < heads; ++h) {
    all = merge(all, {moments[3 * h], moments[3 * h + 1], moments[3 * h + 2]});
  }
  return {all.mean, all.squares > 0 ? 1 / std::sqrt(all.squares / all.count) : 0};
}

// Rows of a head are in time order, so the spans are walked beside them.
class SpanWalk {
 public:
  explicit SpanWalk(const Tensor& spans)
      : span_(spans ? spans.as<int32_t>() : nullptr), end_(spans ? span_ + 2 * spans.shape[0] : nullptr) {}

  bool holds(int32_t position) {
    while (span_ != end_ && position >= span_[1]) span_ += 2;
    return span_ != end_ && position >= span_[0];
  }

 private:
  const int32_t* span_;
  const int32_t* end_;
};

}  // namespace

size_t combine_scores_workspace(const CombineScoresArgs& a) {
  Arena arena;
  CombineWorkspace::lay_out(arena, a);
  return arena.used();
}

Status combine_scores(Stream& stream, const CombineScoresArgs& a, Workspace workspace) {
  CpuStream& cpu = cpu_stream(stream);
  Arena arena(workspace.data);
  auto* moments = CombineWorkspace::lay_out(arena, a).moments.as<double>();
  LONGHAUL_ASSERT(arena.used() <= workspace.bytes);
  const auto rows_of = [&](int64_t head) { return std::max(a.view->length[head] - a.ignore_last, 0); };
  const int parts = a.other ? 2 : 1;
  cpu.parallel_for(int64_t{parts} * a.kv_heads, [&](int64_t task, int) {
    const int64_t head = task % a.kv_heads;
    const Tensor& scores = task < a.kv_heads ? a.scores : a.other;
    const Moments of_head = moments_of(scores.as<float>() + head * scores.stride[0], rows_of(head));
    moments[3 * task] = of_head.count;
    moments[3 * task + 1] = of_head.mean;
    moments[3 * task + 2] = of_head.squares;
  });
  const Scale scale = scale_of(moments, a.kv_heads);
  const Scale other_scale = a.other ? scale_of(moments + 3 * a.kv_heads, a.kv_heads) : Scale{0, 0};
  cpu.parallel_for(a.kv_heads, [&](int64_t head, int) {
    float* scores = a.scores.as<float>() + head * a.scores.stride[0];
    const float* other = a.other ? a.other.as<float>() + head * a.other.stride[0] : nullptr;
    const int32_t* table = page_table_of(*a.view, static_cast<int32_t>(head));
    SpanWalk spans(a.spans);
    const int32_t rows = rows_of(head);
    for (int32_t r = 0; r < rows; ++r) {
      scores[r] = scale(scores[r]);
      if (other != nullptr) scores[r] += a.weight * other_scale(other[r]);
      const int64_t slot = int64_t{table[r / kPageRows]} * kPageRows + r % kPageRows;
      if (a.spans && spans.holds(a.pages.positions.as<int32_t>()[slot])) scores[r] += a.bonus;
    }
  });
  return {};
}

}  // namespace longhaul::cpu
