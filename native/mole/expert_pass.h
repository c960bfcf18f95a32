// The adapters of one pass over a model: their scratch memory, and their ops at the seams between products.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/arena.h"
#include "core/ops.h"
#include "mole/adapter_weights.h"

namespace longhaul {

// Rows of a pass that share an adapter.
struct AdaptedRows {
  int64_t row_begin = 0;
  int64_t row_count = 0;
  const AdapterWeights* adapter = nullptr;
};

// What the routers of the last adapt() said. Only rows of adapters that route there hold anything.
struct ExpertRouting {
  Tensor weights, logits;  // [rows, parts, experts] f32
  Tensor entropy;          // [rows, parts] f32; of nothing for MixLoRA's FFN
};

class ExpertPass {
 public:
  // Widths of what is adapted.
  struct Shape {
    int64_t rows = 0;
    int64_t inputs = 0;  // of the widest projection
    int64_t intermediate = 0;
    DType activation = DType::kF32;
  };

  // Without experts in `limits` nothing is taken. Returns the bytes of workspace that the ops need.
  size_t lay_out(Arena& arena, const Backend& backend, const Shape& shape, const ExpertLimits& limits);

  // The next pass has these rows, ascending; neighbours with one adapter are run as one.
  void set_rows(std::span<const AdaptedRows> rows);
  bool any() const { return !rows_.empty(); }

  struct Context {
    Backend& backend;
    Stream& stream;
    Workspace workspace;
    RowRole role;
  };
  // Adds to out[p] what the adapters say of x, part by part of the group.
  Status adapt(const Context& on, int32_t layer, ProjectionGroup group, const Tensor& x,
               std::array<Tensor, kMaxExpertParts> out);

  // MixLoRA: `hidden` [rows, intermediate] of the rows whose adapters have an FFN of experts becomes the
  // weighted sum of theirs; x is the FFN's input, gate_up the base's own. Then, behind the down product, `out`
  // gets what the experts' down projections add.
  Status mix_ffn(const Context& on, int32_t layer, const Tensor& x, const Tensor& gate_up,
                 const Tensor& hidden);
  Status finish_ffn(const Context& on, int32_t layer, const Tensor& out);

  // Of the last adapt() or mix_ffn().
  ExpertRouting routing(int64_t rows, int32_t parts) const;

 private:
  Status mix_rows(const Context& on, const ExpertFfn& ffn, const AdaptedRows& rows, const Tensor& x,
                  const Tensor& gate_up, const Tensor& hidden);

  std::vector<AdaptedRows> rows_;
  std::vector<ExpertSegment> segments_;  // kept between calls: a decode step allocates nothing
  Tensor weights_, logits_;              // [rows, kMaxExpertParts, experts] f32
  Tensor middle_;                        // [rows, kMaxExpertParts, ranks] f32
  Tensor entropy_;                       // [rows, kMaxExpertParts] f32
  Tensor expert_gate_up_;                // [rows, 2 * intermediate] act: of one expert
  Tensor expert_hidden_;                 // [rows, intermediate] act
  Tensor mixed_;                         // [rows, intermediate] f32
};

}  // namespace longhaul
