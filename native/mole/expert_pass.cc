#include "mole/expert_pass.h"

#include <algorithm>

namespace longhaul {
namespace {

// Where the middle of MixLoRA's down projection waits for its product, beside those of gate and up.
constexpr int64_t kDownPart = 2;

}  // namespace

size_t ExpertPass::lay_out(Arena& arena, const Backend& backend, const Shape& shape,
                           const ExpertLimits& limits) {
  if (limits.experts == 0) return 0;
  weights_ = arena.take(DType::kF32, {shape.rows, kMaxExpertParts, limits.experts});
  logits_ = arena.take(DType::kF32, {shape.rows, kMaxExpertParts, limits.experts});
  middle_ = arena.take(DType::kF32, {shape.rows, kMaxExpertParts, limits.ranks});
  entropy_ = arena.take(DType::kF32, {shape.rows, kMaxExpertParts});
  if (limits.ffn != 0) {
    expert_gate_up_ = arena.take(shape.activation, {shape.rows, 2 * shape.intermediate});
    expert_hidden_ = arena.take(shape.activation, {shape.rows, shape.intermediate});
    mixed_ = arena.take(DType::kF32, {shape.rows, shape.intermediate});
  }
  size_t bytes = 0;
  for (RowRole role : {RowRole::kBlock, RowRole::kDecode}) {
    ExpertShrinkArgs shrink{.x = Tensor::dense(nullptr, shape.activation, {shape.rows, shape.inputs})};
    shrink.parts = kMaxExpertParts;
    shrink.weights = weights_;
    shrink.middle = middle_;
    shrink.role = role;
    ExpertExpandArgs expand{.middle = middle_, .weights = weights_, .parts = kMaxExpertParts, .role = role};
    bytes = std::max(
        {bytes, backend.ops().expert_shrink_workspace(shrink), backend.ops().expert_expand_workspace(expand)});
  }
  return bytes;
}

void ExpertPass::set_rows(std::span<const AdaptedRows> rows) {
  rows_.clear();
  for (const AdaptedRows& next : rows) {
    if (next.adapter == nullptr || next.row_count == 0) continue;
    AdaptedRows* const last = rows_.empty() ? nullptr : &rows_.back();
    if (last != nullptr && last->adapter == next.adapter &&
        last->row_begin + last->row_count == next.row_begin) {
      last->row_count += next.row_count;
    } else {
      rows_.push_back(next);
    }
  }
}

Status ExpertPass::adapt(const Context& on, int32_t layer, ProjectionGroup group, const Tensor& x,
                         std::array<Tensor, kMaxExpertParts> out) {
  segments_.clear();
  for (const AdaptedRows& rows : rows_) {
    const LayerAdapterWeights& weights = rows.adapter->layer(layer);
    if (weights.adapts(group)) segments_.push_back({rows.row_begin, rows.row_count, weights[group]});
  }
  if (segments_.empty()) return Status();
  const int64_t count = x.shape[0];
  const int32_t parts = parts_of(group);
  const ExpertRouting into = routing(count, parts);
  ExpertShrinkArgs shrink{.x = x, .segments = segments_.data(), .parts = parts};
  shrink.segment_count = static_cast<int64_t>(segments_.size());
  shrink.weights = into.weights;
  shrink.logits = into.logits;
  shrink.entropy = into.entropy;
  shrink.middle = middle_.slice(0, count).narrow(1, 0, parts);
  shrink.role = on.role;
  LONGHAUL_TRY(run(on.backend, on.stream, shrink, on.workspace));
  ExpertExpandArgs expand{.middle = shrink.middle, .weights = shrink.weights, .segments = segments_.data()};
  expand.segment_count = shrink.segment_count;
  expand.parts = parts;
  expand.out = out;
  expand.role = on.role;
  return run(on.backend, on.stream, expand, on.workspace);
}

Status ExpertPass::mix_ffn(const Context& on, int32_t layer, const Tensor& x, const Tensor& gate_up,
                           const Tensor& hidden) {
  for (const AdaptedRows& rows : rows_) {
    const ExpertFfn& ffn = rows.adapter->layer(layer).ffn;
    if (ffn) LONGHAUL_TRY(mix_rows(on, ffn, rows, x, gate_up, hidden));
  }
  return Status();
}

Status ExpertPass::mix_rows(const Context& on, const ExpertFfn& ffn, const AdaptedRows& rows, const Tensor& x,
                            const Tensor& gate_up, const Tensor& hidden) {
  const int64_t begin = rows.row_begin, count = rows.row_count, width = hidden.shape[1];
  const auto of = [&](const Tensor& t) { return t.slice(begin, count); };
  const auto matrix = [&](const Tensor& t) {  // part 0 of [rows, parts, experts]
    Tensor out = of(t).narrow(2, 0, ffn.experts);
    out.rank = 2;
    out.shape[1] = ffn.experts;
    out.stride[1] = 1;
    return out;
  };
  const Tensor weights = matrix(weights_);
  LONGHAUL_TRY(run(
      on.backend, on.stream,
      RouteArgs{
          .x = of(x), .gate = ffn.gate, .router = ffn.router, .weights = weights, .logits = matrix(logits_)}));
  ExpertSegment segment{.row_count = count, .parts = {ffn.shrink[0], ffn.shrink[1]}};
  ExpertShrinkArgs shrink{.x = of(x), .segments = &segment, .segment_count = 1, .parts = 2};
  shrink.middle = of(middle_).narrow(1, 0, 2);
  shrink.role = on.role;
  LONGHAUL_TRY(run(on.backend, on.stream, shrink, on.workspace));

  const Tensor both = of(expert_gate_up_), expert = of(expert_hidden_), mixed = of(mixed_);
  for (int64_t e = 0; e < ffn.experts; ++e) {
    const auto at = static_cast<size_t>(e);
    LONGHAUL_TRY(run(on.backend, on.stream, AddWeightedRowsArgs{.x = of(gate_up), .out = both}));
    for (int64_t p = 0; p < 2; ++p) {
      const ExpertPart& part = ffn.expand[at][static_cast<size_t>(p)];
      if (part.experts == 0) continue;
      segment.parts = {part};
      ExpertExpandArgs expand{.segments = &segment, .segment_count = 1, .role = on.role};
      expand.middle = of(middle_).narrow(1, p, 1).narrow(2, e * part.rank, part.rank);
      expand.out[0] = both.narrow(1, p * width, width);
      LONGHAUL_TRY(run(on.backend, on.stream, expand, on.workspace));
    }
    LONGHAUL_TRY(run(on.backend, on.stream, SwigluArgs{.gate_up = both, .out = expert}));
    LONGHAUL_TRY(run(on.backend, on.stream,
                     AddWeightedRowsArgs{
                         .x = expert, .weights = weights.narrow(1, e, 1), .out = mixed, .accumulate = e > 0}));
    const ExpertPart& down = ffn.down_shrink[at];
    if (down.experts == 0) continue;
    segment.parts = {down};
    ExpertShrinkArgs last{.x = expert, .segments = &segment, .segment_count = 1, .role = on.role};
    last.middle = of(middle_).narrow(1, kDownPart, 1).narrow(2, e * down.rank, down.rank);
    LONGHAUL_TRY(run(on.backend, on.stream, last, on.workspace));
  }
  return run(on.backend, on.stream, AddWeightedRowsArgs{.x = mixed, .out = of(hidden)});
}

Status ExpertPass::finish_ffn(const Context& on, int32_t layer, const Tensor& out) {
  for (const AdaptedRows& rows : rows_) {
    const ExpertFfn& ffn = rows.adapter->layer(layer).ffn;
    if (!ffn || ffn.down_expand.experts == 0) continue;
    const ExpertSegment segment{.row_count = rows.row_count, .parts = {ffn.down_expand}};
    ExpertExpandArgs expand{.segments = &segment, .segment_count = 1, .role = on.role};
    expand.middle = middle_.slice(rows.row_begin, rows.row_count).narrow(1, kDownPart, 1);
    expand.weights = weights_.slice(rows.row_begin, rows.row_count).narrow(1, 0, 1);
    expand.out[0] = out.slice(rows.row_begin, rows.row_count);
    LONGHAUL_TRY(run(on.backend, on.stream, expand, on.workspace));
  }
  return Status();
}

ExpertRouting ExpertPass::routing(int64_t rows, int32_t parts) const {
  return {.weights = weights_.slice(0, rows).narrow(1, 0, parts),
          .logits = logits_.slice(0, rows).narrow(1, 0, parts),
          .entropy = entropy_.slice(0, rows).narrow(1, 0, parts)};
}

}  // namespace longhaul
