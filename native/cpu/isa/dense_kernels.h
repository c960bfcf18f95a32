// Kernels of the matrix product and the element-wise ops for one instruction set.
#pragma once

#include <stdint.h>

namespace longhaul::cpu {

// Outputs of one panel of packed weights: one zmm, two ymm, four xmm of f32.
constexpr int kPanel = 16;

// Types of values and weights inside kernels.
enum class Element : uint8_t { kF32, kBf16, kF16 };

// acc[rows, panels * kPanel] (+)= x * w^T over `depth` values of K. Every output has one accumulator and takes
// K in ascending order, so neither the other rows nor the cutting into blocks changes its bits.
struct GemmBlock {
  const void* x;       // packed groups of rows, at the block's first k
  int64_t x_group;     // bytes from one group of rows to the next
  const void* w;       // first panel, at the block's first k
  int64_t w_panel;     // bytes from one panel to the next
  float* acc;          // row-major, 64-byte aligned
  int64_t acc_stride;  // multiple of kPanel
  int rows;            // a multiple of row_group, or fewer than one group
  int panels;
  int64_t depth;  // even
  bool first;     // acc starts from zero
};

// One group of at most row_group rows of x, interleaved for the product.
struct PackRows {
  const void* x;
  Element type;    // f32 or bf16
  int64_t stride;  // elements from one row to the next
  int rows;
  int64_t cols;
  int64_t depth;  // cols rounded up to even; the rest is zero
  void* out;
};

struct DenseKernels {
  // For bf16 weights a group of r rows of x is [depth / 2][r][2] bf16 when the instruction set multiplies
  // pairs; in all other cases it is [depth][r] f32.
  int row_group;
  bool bf16_pairs;

  void (*pack_pairs)(const PackRows&);
  void (*pack_f32)(const PackRows&);

  void (*gemm_f32)(const GemmBlock&);
  void (*gemm_bf16)(const GemmBlock&);
  void (*gemm_f16)(const GemmBlock&);

  // out[i] = acc[i] (+ bias[i]) (+ out[i] with `accumulate`); bias may be null. Types here and below: f32 or
  // bf16.
  void (*store_row)(const float* acc, const float* bias, void* out, Element type, bool accumulate, int64_t n);

  // x += delta (unless null), then out = x / sqrt(mean(x^2) + eps) * weight. out may be x.
  void (*rms_norm_row)(void* x, Element x_type, const void* delta, Element delta_type, const float* weight,
                       void* out, Element out_type, int64_t n, float eps);
  // out[i] = silu(gate[i]) * up[i]
  void (*swiglu_row)(const void* gate, const void* up, Element type, void* out, Element out_type, int64_t n);
  // Rotates the pairs (i, i + half) of one head in place.
  void (*rope_head)(void* x, Element type, const float* cos, const float* sin, int64_t half);
};

}  // namespace longhaul::cpu
