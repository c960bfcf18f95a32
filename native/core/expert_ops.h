// Ops of mixtures of LoRA experts: routing, what experts add to a linear projection, and the gradients of both.
// One adapted projection is y = W x + scale * sum_e w_e B_e (A_e x), w = route(softmax(gate x)) (DynMoLE, arXiv
// 2504.00661; LoRA, arXiv 2106.09685: one expert of weight 1).
//
// Part of core/ops.h, which includes it: the table and run() are there.
#pragma once

#include <array>
#include <cstdint>

#include "core/backend.h"
#include "core/routing.h"
#include "core/tensor.h"

namespace longhaul {

enum class RowRole : uint8_t;

// weights = route(softmax(x gate^T)), each row by itself; logits are summed in f32, what follows is in double.
struct RouteArgs {
  Tensor x;     // [rows, cols] f32 or act, rows may be strided
  Tensor gate;  // [experts, cols] f32
  RouterSettings router;
  Tensor weights;  // [rows, experts] f32, rows may be strided
  Tensor entropy;  // optional, [rows] f32, of the probabilities before any is dropped
  Tensor mask;     // optional, [rows, experts] u8: 1 where the expert is kept
  Tensor logits;   // optional, [rows, experts] f32, rows may be strided: what route_backward needs
};

// Linear projections that read the same input and are adapted by one call: q, k and v; gate and up.
constexpr int kMaxExpertParts = 3;

// What one adapter adds to one projection.
struct ExpertPart {
  int32_t experts = 0;  // 0: nothing
  int32_t rank = 0;     // of each expert
  float scale = 0;
  const Weight* a = nullptr;  // [experts * rank, inputs]: A_0 .. A_(E-1) stacked
  const Weight* b = nullptr;  // [outputs, experts * rank]: column e * rank + k is column k of B_e
  bool weighted = false;      // else every expert has weight 1
  Tensor gate;                // [experts, inputs] f32; null: expert_shrink leaves the weights as they are
  RouterSettings router;      // of `gate`
  Tensor factor;              // optional, [outputs] f32: DoRA's magnitude over the norms of W + scale * B A
  Tensor offset;              // optional, [outputs] f32, with `factor`: (1 - factor) * bias of the projection
};

// Rows of the step that share an adapter.
struct ExpertSegment {
  int64_t row_begin = 0;
  int64_t row_count = 0;
  std::array<ExpertPart, kMaxExpertParts> parts;
};

// First half: weights[i, p] = route(...) for parts with a gate, middle[i, p, e * rank + k] = (A_e x_i)_k. Rows
// outside the segments are left as they are, and so may be the middle of experts whose weight is 0.
struct ExpertShrinkArgs {
  Tensor x;                                 // [rows, inputs] f32 or act, rows may be strided
  const ExpertSegment* segments = nullptr;  // [segment_count] in host memory, ascending, disjoint
  int64_t segment_count = 0;
  int32_t parts = 1;
  Tensor weights;  // [rows, parts, *] f32, at least as wide as the most experts of a part
  Tensor middle;   // [rows, parts, *] f32, at least as wide as the largest experts * rank
  Tensor logits;   // optional, as weights: what route_backward needs
  Tensor entropy;  // optional, [rows, parts] f32
  RowRole role{};
};

// Second half: out_p[i] += scale * sum_e w_e B_e middle_e; with a factor, out_p = factor * that + offset. An
// expert of weight 0 adds nothing, whatever its middle holds. Rows outside the segments keep their bits.
struct ExpertExpandArgs {
  Tensor middle;                            // [rows, parts, *] f32
  Tensor weights;                           // [rows, parts, *] f32, read for weighted parts
  const ExpertSegment* segments = nullptr;  // as for expert_shrink
  int64_t segment_count = 0;
  int32_t parts = 1;
  std::array<Tensor, kMaxExpertParts> out;  // [rows, outputs] f32 or act, rows may be strided
  RowRole role{};
};

// out = weights[i] * x[i], or out += with `accumulate`. A row of weight 0 is not read.
struct AddWeightedRowsArgs {
  Tensor x;        // [rows, cols] f32 or act, rows may be strided
  Tensor weights;  // optional, [rows, 1] f32, rows may be strided; without it 1
  Tensor out;      // [rows, cols] f32 or act, rows may be strided
  bool accumulate = false;
};

// ---- gradients (all f32: adapters are trained in f32) ------------------------------------------------------

// The losses that keep routers decided and experts evenly used, over all routers and tokens of an adapter:
//   entropy = mean_r H_r over all rows, balance = E * sum_i f_i P_i with f_i = sum_r a_r w_ri / (n + 1e-8),
//   P_i = sum_r a_r p_ri / (n + 1e-8), n = sum_r a_r;  loss = entropy_scale * entropy + balance_scale * balance
struct RouterLossArgs {
  Tensor logits;    // [rows, experts] f32
  Tensor attended;  // optional, [rows] f32, a: 1 for tokens, 0 for padding; without it f and P are means
  RouterSettings router;
  float entropy_scale = 0.01f;
  float balance_scale = 0.001f;
  Tensor usage;    // [2, experts] f32: f, then P
  Tensor summary;  // [4] f32: loss, entropy, balance, and what f and P were divided by
};

// dlogits = the gradient of the logits, masks taken as constant: of sum(dweights * weights), and of `loss_rows`
// rows' RouterLossArgs where `usage` is given.
struct RouteBackwardArgs {
  Tensor logits;    // [rows, experts] f32
  Tensor dweights;  // optional, [rows, experts] f32
  RouterSettings router;
  Tensor usage, summary;  // optional, as router_loss left them
  Tensor attended;        // optional, as there
  float entropy_scale = 0;
  float balance_scale = 0;
  int64_t loss_rows = 0;  // of the whole loss, padding counted
  Tensor dlogits;         // [rows, experts] f32
};

// Of y = scale * sum_e w_e B_e (A_e x): dweights is written, dx, da and db are added to. Experts of weight 0
// are left out of all but dweights, where they get 0: their logits' gradient does not need it.
struct ExpertBackwardArgs {
  Tensor x;        // [rows, inputs] f32
  Tensor dout;     // [rows, outputs] f32
  Tensor a;        // [experts, rank, inputs] f32
  Tensor b;        // [experts, outputs, rank] f32
  Tensor weights;  // [rows, experts] f32
  Tensor middle;   // [rows, experts, rank] f32, rows may be strided: A_e x
  float scale = 0;
  Tensor dx;        // [rows, inputs] f32
  Tensor da, db;    // as a, b
  Tensor dweights;  // [rows, experts] f32
};

// Of y = x weight^T: dx += dy weight, dweight += dy^T x. The gate's, and a base projection's path to dx.
struct LinearBackwardArgs {
  Tensor x;        // [rows, inputs] f32; may be null without dweight
  Tensor dy;       // [rows, outputs] f32
  Tensor weight;   // [outputs, inputs] f32; may be null without dx
  Tensor dx;       // optional, [rows, inputs] f32
  Tensor dweight;  // optional, [outputs, inputs] f32
};

}  // namespace longhaul
