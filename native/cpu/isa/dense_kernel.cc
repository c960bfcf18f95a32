// Row-wise kernels and the table of dense kernels.
#include "cpu/isa/elements.h"
#include "cpu/isa/gemm_kernel.h"
#include "cpu/isa/kernels.h"
#include "cpu/isa/simd.h"

namespace longhaul::LONGHAUL_ISA_NAMESPACE {

using cpu::Element;

namespace {

void store_row(const float* acc, const float* bias, void* out, Element type, bool accumulate, int64_t n) {
  typed(out, type, [=](auto* to) {
    for (int64_t i = 0; i < n; i += kLanes) {
      Vec x = read_at(acc, i, n);
      if (bias != nullptr) x = add(x, read_at(bias, i, n));
      if (accumulate) x = add(x, read_at(to, i, n));
      write_at(to, i, n, x);
    }
  });
}

template <class T>
LONGHAUL_INLINE void add_row(T* x, const void* delta, Element delta_type, int64_t n) {
  typed(delta, delta_type, [=](auto* from) {
    for (int64_t i = 0; i < n; i += kLanes) write_at(x, i, n, add(read_at(x, i, n), read_at(from, i, n)));
  });
}

// Four sums, so that additions need not wait for each other.
template <class T>
LONGHAUL_INLINE float sum_of_squares(const T* x, int64_t n) {
  Vec sum[4] = {zero(), zero(), zero(), zero()};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const Vec value = read(x + i + j * kLanes);
      sum[j] = fma(value, value, sum[j]);
    }
  }
  for (; i < n; i += kLanes) {
    const Vec value = read_at(x, i, n);
    sum[0] = fma(value, value, sum[0]);
  }
  return reduce_add(add(add(sum[0], sum[1]), add(sum[2], sum[3])));
}

void rms_norm_row(void* x, Element x_type, const void* delta, Element delta_type, const float* weight,
                  void* out, Element out_type, int64_t n, float eps) {
  typed(x, x_type, [=](auto* row) {
    if (delta != nullptr) add_row(row, delta, delta_type, n);
    const Vec scale = splat(1.0f / __builtin_sqrtf(sum_of_squares(row, n) / static_cast<float>(n) + eps));
    typed(out, out_type, [=](auto* to) {
      for (int64_t i = 0; i < n; i += kLanes) {
        write_at(to, i, n, mul(mul(read_at(row, i, n), scale), read_at(weight, i, n)));
      }
    });
  });
}

void swiglu_row(const void* gate, const void* up, Element type, void* out, Element out_type, int64_t n) {
  typed(gate, type, [=](auto* gates) {
    const auto* ups = static_cast<decltype(gates)>(up);
    typed(out, out_type, [=](auto* to) {
      for (int64_t i = 0; i < n; i += kLanes) {
        const Vec x = read_at(gates, i, n);
        const Vec silu = div(x, add(splat(1.0f), exp(sub(zero(), x))));
        write_at(to, i, n, mul(silu, read_at(ups, i, n)));
      }
    });
  });
}

void rope_head(void* x, Element type, const float* cos, const float* sin, int64_t half) {
  typed(x, type, [=](auto* low) {
    auto* high = low + half;
    for (int64_t i = 0; i < half; i += kLanes) {
      const Vec a = read_at(low, i, half);
      const Vec b = read_at(high, i, half);
      const Vec c = read_at(cos, i, half);
      const Vec s = read_at(sin, i, half);
      write_at(low, i, half, sub(mul(a, c), mul(b, s)));
      write_at(high, i, half, fma(b, c, mul(a, s)));
    }
  });
}

}  // namespace

const cpu::DenseKernels dense_kernels = {
    .row_group = kRowGroup,
    .bf16_pairs = kBf16Pairs,
    .pack_pairs = pack_pairs,
    .pack_f32 = pack_f32,
    .gemm_f32 = gemm_f32,
    .gemm_bf16 = gemm_bf16,
    .gemm_f16 = gemm_f16,
    .store_row = store_row,
    .rms_norm_row = rms_norm_row,
    .swiglu_row = swiglu_row,
    .rope_head = rope_head,
};

}  // namespace longhaul::LONGHAUL_ISA_NAMESPACE
