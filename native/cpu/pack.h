// The one layout of weights, read by the matrix product for any number of rows and by embedding lookups.
//
// Outputs are cut into panels of kPanel. bf16: [panels][cols / 2][kPanel][2], so that one 64-byte load is a
// pair of inputs of 16 outputs, what vdpbf16ps multiplies; f32 and f16: [panels][cols][kPanel]. Both extents
// are padded with zeros: rows to kPanel, cols to 2.
#pragma once

#include <span>

#include "core/backend.h"
#include "cpu/isa/dense_kernels.h"
#include "cpu/thread_pool.h"

namespace longhaul::cpu {

struct PackedLayout {
  int64_t rows = 0;
  int64_t cols = 0;
  DType dtype = DType::kF32;

  int64_t panels() const { return (rows + kPanel - 1) / kPanel; }
  int64_t depth() const { return (cols + 1) / 2 * 2; }
  size_t panel_bytes() const { return static_cast<size_t>(depth()) * kPanel * size_of(dtype); }
  size_t bytes() const { return static_cast<size_t>(panels()) * panel_bytes(); }
};

// kInvalidArgument unless parts are matrices of one width and one dtype among f32, bf16 and f16.
Result<PackedLayout> packed_layout(std::span<const Tensor> parts);

inline PackedLayout layout_of(const Weight& weight) {
  return {weight.rows, weight.cols, weight.dtype};
}

// `out` holds layout.bytes() of zeros.
void pack_panels(std::span<const Tensor> parts, const PackedLayout& layout, void* out, ThreadPool& pool,
                 int threads);

}  // namespace longhaul::cpu
