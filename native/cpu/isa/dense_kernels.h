// Kernels of the matrix product and the element-wise ops for one instruction set.
#pragma once

#include <stdint.h>

namespace longhaul::cpu {

// Outputs of one panel of packed weights: one zmm, two ymm, four xmm of f32.
constexpr int kPanel = 16;

// Element types inside kernels: the few that dense ops meet.
enum class Element : uint8_t { kF32, kBf16, kF16 };

// acc[rows, panels * kPanel] (+)= x * w^T over `depth` values of K, in ascending order of k.
struct GemmBlock {
  const void* x;       // packed by `pack_rows`: groups of at most row_group rows
  int64_t x_group;     // bytes from one group of rows to the next
  const void* w;       // first panel, at the block's first k
  int64_t w_panel;     // bytes from one panel to the next
  float* acc;          // row-major, stride acc_stride, 64-byte aligned
  int64_t acc_stride;  // multiple of kPanel
  int rows;
  int panels;
  int64_t depth;  // even
  bool first;     // acc starts from zero
};

struct DenseKernels {
  // Rows of x that are interleaved by pack_rows: a group of r <= row_group rows is [depth / 2][r][2] bf16 when
  // `bf16_pairs` and the weights are bf16, else [depth][r] f32.
  int row_group;
  bool bf16_pairs;

  // One group: rows of x, `cols` values each, zero padded to `depth`, stride in elements of `from`.
  void (*pack_pairs)(const void* x, Element from, int64_t stride, int rows, int64_t cols, int64_t depth,
                     void* out);
  void (*pack_f32)(const void* x, Element from, int64_t stride, int rows, int64_t cols, int64_t depth,
                   void* out);

  void (*gemm_f32)(const GemmBlock&);
  void (*gemm_bf16)(const GemmBlock&);
  void (*gemm_f16)(const GemmBlock&);

  // out[i] = acc[i] (+ bias[i]) (+ out[i] with accumulate); bias may be null.
  void (*store_row)(const float* acc, const float* bias, void* out, Element to, bool accumulate, int64_t n);

  // x += delta (when given), then out = x / sqrt(mean(x^2) + eps) * weight. out may be x.
  void (*rms_norm_row)(void* x, Element x_type, const void* delta, Element delta_type, const float* weight,
                       void* out, Element out_type, int64_t n, float eps);
  void (*swiglu_row)(const void* gate, const void* up, Element from, void* out, Element to, int64_t n);
  // Rotates pairs (i, i + half) of one head in place.
  void (*rope_head)(void* x, Element type, const float* cos, const float* sin, int64_t half);
};

}  // namespace longhaul::cpu
