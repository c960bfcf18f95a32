// Argument checks of the ops in core/expert_ops.h.
#include <cmath>

#include "core/checker.h"
#include "core/ops.h"

namespace longhaul {
namespace {

void check_router(Checker& c, const RouterSettings& r, int64_t experts) {
  c.require(experts >= 1 && experts <= kMaxExperts, "a router has between 1 and 64 experts", experts);
  c.require(r.keep_top_k >= 1, "router.keep_top_k must be at least 1", r.keep_top_k);
  c.require(std::isfinite(r.entropy_index) && r.entropy_index > 0, "router.entropy_index must be positive");
  c.require(r.entropy_eps >= 0, "router.entropy_eps must not be negative");
  c.require(!std::isnan(r.top_p) && !std::isnan(r.entropy_threshold),
            "router.top_p and router.entropy_threshold must be numbers");
  c.require(r.entropy_mode == EntropyMode::kReference || r.entropy_type == EntropyType::kTsallis,
            "router.entropy_mode stable is for Tsallis entropy");
}

// Segments are in order and inside `rows`; calls check_part(part, index) for every part that there is.
template <class Args, class CheckPart>
void check_segments(Checker& c, const Args& a, int64_t rows, const Weight* ExpertPart::*side,
                    CheckPart&& check_part) {
  c.require(a.parts >= 1 && a.parts <= kMaxExpertParts, "parts must be between 1 and 3", a.parts);
  c.require(a.segment_count >= 0, "segment_count must not be negative", a.segment_count);
  c.require(a.segment_count == 0 || a.segments != nullptr, "segments are missing");
  if (!c.ok()) return;
  int64_t end = 0;
  for (int64_t s = 0; s < a.segment_count && c.ok(); ++s) {
    const ExpertSegment& segment = a.segments[s];
    c.require(segment.row_begin >= end, "segments must be ascending and disjoint, row_begin",
              segment.row_begin);
    c.require(segment.row_count >= 0 && segment.row_count <= rows - segment.row_begin,
              "a segment has more rows than there are, row_count", segment.row_count);
    end = segment.row_begin + segment.row_count;
    const ExpertPart* first = nullptr;
    for (int32_t p = 0; p < a.parts && c.ok(); ++p) {
      const ExpertPart& part = segment.parts[static_cast<size_t>(p)];
      if (part.experts == 0) continue;
      c.require(part.experts > 0 && part.experts <= kMaxExperts, "a part has between 1 and 64 experts",
                part.experts);
      c.require(part.rank >= 1, "a part's rank must be at least 1", part.rank);
      if (!c.ok()) return;
      check_part(part, p);
      if (first == nullptr) first = &part;
      if (c.ok()) {
        c.require((part.*side)->dtype == (first->*side)->dtype,
                  "the parts of a segment must have matrices of one dtype");
      }
    }
  }
}

}  // namespace

Status check(const RouteArgs& a) {
  Checker c("route");
  c.tensor("x", a.x, kF32OrBf16, {kAnyExtent, kAnyExtent});
  c.dense("gate", a.gate, kOnlyF32, {kAnyExtent, a.x.shape[1]});
  const int64_t rows = a.x.shape[0];
  const int64_t experts = a.gate.shape[0];
  check_router(c, a.router, experts);
  c.tensor("weights", a.weights, kOnlyF32, {rows, experts});
  if (a.entropy) c.dense("entropy", a.entropy, kOnlyF32, {rows});
  if (a.mask) c.dense("mask", a.mask, kOnlyU8, {rows, experts});
  if (a.logits) c.tensor("logits", a.logits, kOnlyF32, {rows, experts});
  return c.status();
}

Status check(const ExpertShrinkArgs& a) {
  Checker c("expert_shrink");
  c.tensor("x", a.x, kF32OrBf16, {kAnyExtent, kAnyExtent});
  const int64_t rows = a.x.shape[0];
  c.tensor("middle", a.middle, kOnlyF32, {rows, a.parts, kAnyExtent});
  if (a.weights) c.tensor("weights", a.weights, kOnlyF32, {rows, a.parts, kAnyExtent});
  if (a.logits) c.tensor("logits", a.logits, kOnlyF32, {rows, a.parts, kAnyExtent});
  if (a.entropy) c.tensor("entropy", a.entropy, kOnlyF32, {rows, a.parts});
  check_segments(c, a, rows, &ExpertPart::a, [&](const ExpertPart& part, int32_t) {
    const int64_t depth = int64_t{part.experts} * part.rank;
    c.weight("a", part.a);
    if (!c.ok()) return;
    c.require(part.a->rows == depth, "a must have experts * rank rows", part.a->rows);
    c.require(part.a->cols == a.x.shape[1], "a must have as many columns as x", part.a->cols);
    c.require(a.middle.shape[2] >= depth, "middle is narrower than experts * rank", a.middle.shape[2]);
    if (!part.gate) return;
    c.dense("gate", part.gate, kOnlyF32, {part.experts, a.x.shape[1]});
    check_router(c, part.router, part.experts);
    c.require(part.weighted, "a part with a gate must be weighted");
    c.require(static_cast<bool>(a.weights), "weights are missing");
    c.require(a.weights.shape[2] >= part.experts, "weights are narrower than experts", a.weights.shape[2]);
    c.require(!a.logits || a.logits.shape[2] >= part.experts, "logits are narrower than experts");
  });
  return c.status();
}

Status check(const ExpertExpandArgs& a) {
  Checker c("expert_expand");
  c.tensor("middle", a.middle, kOnlyF32, {kAnyExtent, a.parts, kAnyExtent});
  const int64_t rows = a.middle.shape[0];
  if (a.weights) c.tensor("weights", a.weights, kOnlyF32, {rows, a.parts, kAnyExtent});
  check_segments(c, a, rows, &ExpertPart::b, [&](const ExpertPart& part, int32_t p) {
    const int64_t depth = int64_t{part.experts} * part.rank;
    c.weight("b", part.b);
    if (!c.ok()) return;
    c.require(part.b->cols == depth, "b must have experts * rank columns", part.b->cols);
    c.require(a.middle.shape[2] >= depth, "middle is narrower than experts * rank", a.middle.shape[2]);
    c.tensor("out", a.out[static_cast<size_t>(p)], kF32OrBf16, {rows, part.b->rows});
    if (part.factor) c.dense("factor", part.factor, kOnlyF32, {part.b->rows});
    if (part.offset) c.dense("offset", part.offset, kOnlyF32, {part.b->rows});
    c.require(!part.offset || part.factor, "an offset needs a factor");
    c.require(!part.weighted || a.weights, "weights are missing");
    c.require(!part.weighted || a.weights.shape[2] >= part.experts, "weights are narrower than experts");
  });
  return c.status();
}

Status check(const AddWeightedRowsArgs& a) {
  Checker c("add_weighted_rows");
  c.tensor("x", a.x, kF32OrBf16, {kAnyExtent, kAnyExtent});
  if (a.weights) c.tensor("weights", a.weights, kOnlyF32, {a.x.shape[0], 1});
  c.tensor("out", a.out, kF32OrBf16, {a.x.shape[0], a.x.shape[1]});
  return c.status();
}

Status check(const RouterLossArgs& a) {
  Checker c("router_loss");
  c.dense("logits", a.logits, kOnlyF32, {kAnyExtent, kAnyExtent});
  const int64_t experts = a.logits.shape[1];
  check_router(c, a.router, experts);
  c.require(a.logits.shape[0] >= 1, "logits have no rows");
  if (a.attended) c.dense("attended", a.attended, kOnlyF32, {a.logits.shape[0]});
  c.dense("usage", a.usage, kOnlyF32, {2, experts});
  c.dense("summary", a.summary, kOnlyF32, {4});
  return c.status();
}

Status check(const RouteBackwardArgs& a) {
  Checker c("route_backward");
  c.dense("logits", a.logits, kOnlyF32, {kAnyExtent, kAnyExtent});
  const int64_t rows = a.logits.shape[0];
  const int64_t experts = a.logits.shape[1];
  check_router(c, a.router, experts);
  if (a.dweights) c.dense("dweights", a.dweights, kOnlyF32, {rows, experts});
  c.dense("dlogits", a.dlogits, kOnlyF32, {rows, experts});
  if (a.usage || a.summary) {
    c.dense("usage", a.usage, kOnlyF32, {2, experts});
    c.dense("summary", a.summary, kOnlyF32, {4});
    c.require(a.loss_rows >= rows, "loss_rows must be at least the rows of logits", a.loss_rows);
  }
  if (a.attended) c.dense("attended", a.attended, kOnlyF32, {rows});
  return c.status();
}

Status check(const ExpertBackwardArgs& a) {
  Checker c("expert_backward");
  c.tensor("x", a.x, kOnlyF32, {kAnyExtent, kAnyExtent});
  c.tensor("dout", a.dout, kOnlyF32, {a.x.shape[0], kAnyExtent});
  const int64_t rows = a.x.shape[0], inputs = a.x.shape[1], outputs = a.dout.shape[1];
  c.dense("a", a.a, kOnlyF32, {kAnyExtent, kAnyExtent, inputs});
  const int64_t experts = a.a.shape[0], rank = a.a.shape[1];
  c.require(experts >= 1 && experts <= kMaxExperts, "there are between 1 and 64 experts", experts);
  c.require(rank >= 1, "rank must be at least 1", rank);
  c.dense("b", a.b, kOnlyF32, {experts, outputs, rank});
  c.tensor("weights", a.weights, kOnlyF32, {rows, experts});
  c.tensor("middle", a.middle, kOnlyF32, {rows, experts, rank});
  c.tensor("dx", a.dx, kOnlyF32, {rows, inputs});
  c.dense("da", a.da, kOnlyF32, {experts, rank, inputs});
  c.dense("db", a.db, kOnlyF32, {experts, outputs, rank});
  c.tensor("dweights", a.dweights, kOnlyF32, {rows, experts});
  return c.status();
}

Status check(const LinearBackwardArgs& a) {
  Checker c("linear_backward");
  c.tensor("dy", a.dy, kOnlyF32, {kAnyExtent, kAnyExtent});
  const int64_t rows = a.dy.shape[0], outputs = a.dy.shape[1];
  c.require(a.dx || a.dweight, "dx and dweight are missing");
  if (a.dx) {
    c.tensor("dx", a.dx, kOnlyF32, {rows, kAnyExtent});
    c.dense("weight", a.weight, kOnlyF32, {outputs, a.dx.shape[1]});
  }
  if (a.dweight) {
    c.dense("dweight", a.dweight, kOnlyF32, {outputs, kAnyExtent});
    c.tensor("x", a.x, kOnlyF32, {rows, a.dweight.shape[1]});
  }
  return c.status();
}

}  // namespace longhaul
