// The matrix product of one block, and the interleaving of x that it reads.
#include "cpu/isa/gemm_kernel.h"

namespace longhaul::LONGHAUL_ISA_NAMESPACE {

using cpu::Element;
using cpu::GemmBlock;
using cpu::kPanel;
using cpu::PackRows;

namespace {

constexpr int kVecs = kPanel / kLanes;  // vectors of one panel

// Panels worked on at once for a group of `rows`: enough independent sums to hide the latency of the
// multiply-add, but no more than four, for processors read ahead best in few streams.
constexpr int panels_at_once(int rows) {
#if defined(LONGHAUL_ISA_512)
  return rows <= 6 ? 4 : 2;
#elif defined(LONGHAUL_ISA_avx2)
  return rows == 1 ? 4 : rows <= 3 ? 2 : 1;
#else
  return rows == 1 ? 2 : 1;
#endif
}

// How far ahead of its use a panel is asked for, in bytes.
constexpr int64_t kPrefetch = 2048;

// Up to so many rows a processor that multiplies a line at a time runs far enough ahead by itself, and asking
// would get in its way; others fill its window with the multiply-adds of a few lines.
#if defined(LONGHAUL_ISA_avx512bf16)
constexpr int kMostRowsUnasked = 3;
#else
constexpr int kMostRowsUnasked = 0;
#endif

// multiply(r, i, weights_of(i), values_of(r)) for R rows and N vectors. Holds the fewer of both in registers
// and loads each of the others once.
template <int R, int N, class WeightsOf, class ValuesOf, class Multiply>
LONGHAUL_INLINE void outer_product(WeightsOf weights_of, ValuesOf values_of, Multiply multiply) {
  if constexpr (N <= R) {
    decltype(weights_of(0)) weights[N];
#pragma GCC unroll 32
    for (int i = 0; i < N; ++i) weights[i] = weights_of(i);
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r) {
      const auto value = values_of(r);
#pragma GCC unroll 32
      for (int i = 0; i < N; ++i) multiply(r, i, weights[i], value);
    }
  } else {
    decltype(values_of(0)) values[R];
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r) values[r] = values_of(r);
#pragma GCC unroll 32
    for (int i = 0; i < N; ++i) {
      const auto weights = weights_of(i);
#pragma GCC unroll 32
      for (int r = 0; r < R; ++r) multiply(r, i, weights, values[r]);
    }
  }
}

// Each weight type says what one step over K is: kDepth values of K, kBytes of a panel, kXBytes of a row of x.

LONGHAUL_INLINE Vec widen(const float* p) {
  return load(p);
}
LONGHAUL_INLINE Vec widen(const uint16_t* p) {
  return load_f16(p);
}

template <class T>
struct WidenedWeights {
  static constexpr int kDepth = 1;
  static constexpr int kBytes = kPanel * sizeof(T);
  static constexpr int kXBytes = 4;

  template <int R, int P>
  static LONGHAUL_INLINE void step(Vec (&acc)[R][P * kVecs], const char* x, const char* w, int64_t w_panel) {
    const float* row = reinterpret_cast<const float*>(x);
    outer_product<R, P * kVecs>(
        [=](int i) { return widen(reinterpret_cast<const T*>(w + i / kVecs * w_panel) + i % kVecs * kLanes); },
        [=](int r) { return splat(row[r]); },
        [&](int r, int i, Vec weights, Vec value) { acc[r][i] = fma(weights, value, acc[r][i]); });
  }
};

using F32Weights = WidenedWeights<float>;
using F16Weights = WidenedWeights<uint16_t>;

struct Bf16Weights {
  static constexpr int kDepth = 2;
  static constexpr int kBytes = kPanel * 4;
  static constexpr int kXBytes = kBf16Pairs ? 4 : 8;

  template <int R, int P>
  static LONGHAUL_INLINE void step(Vec (&acc)[R][P * kVecs], const char* x, const char* w, int64_t w_panel) {
#if defined(LONGHAUL_ISA_avx512bf16)
    const int32_t* row = reinterpret_cast<const int32_t*>(x);
    outer_product<R, P>([=](int i) { return _mm512_loadu_si512(w + i * w_panel); },
                        [=](int r) { return _mm512_set1_epi32(row[r]); },
                        [&](int r, int i, __m512i weights, __m512i value) {
                          acc[r][i] = _mm512_dpbf16_ps(acc[r][i], (__m512bh)weights, (__m512bh)value);
                        });
#else
    struct Pair {
      Vec first, second;
    };
    const float* row = reinterpret_cast<const float*>(x);
    outer_product<R, P * kVecs>(
        [=](int i) {
          const char* pairs = w + i / kVecs * w_panel + i % kVecs * kLanes * 4;
          Pair weights;
          load_bf16_pairs(reinterpret_cast<const uint16_t*>(pairs), weights.first, weights.second);
          return weights;
        },
        [=](int r) {
          return Pair{splat(row[r]), splat(row[R + r])};
        },
        [&](int r, int i, const Pair& weights, const Pair& values) {
          acc[r][i] = fma(weights.first, values.first, acc[r][i]);
          acc[r][i] = fma(weights.second, values.second, acc[r][i]);
        });
#endif
  }
};

// R rows by P panels over the block's depth, sums in registers.
template <class Weights, int R, int P>
void multiply(const GemmBlock& block, const char* x, const char* w, float* out) {
  Vec acc[R][P * kVecs];
#pragma GCC unroll 32
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 32
    for (int i = 0; i < P * kVecs; ++i) {
      acc[r][i] = block.first ? zero() : load(out + r * block.acc_stride + i * kLanes);
    }
  }
  const int64_t w_panel = block.w_panel;
  const auto steps = [&]<bool kAsk>(int64_t depth, int64_t ahead) {
    for (; depth > 0; depth -= Weights::kDepth) {
      if constexpr (kAsk) {
#pragma GCC unroll 32
        for (int i = 0; i < P; ++i) __builtin_prefetch(w + i * w_panel + ahead);
      }
      Weights::template step<R, P>(acc, x, w, w_panel);
      x += R * Weights::kXBytes;
      w += Weights::kBytes;
    }
  };
  constexpr int64_t kLast = kPrefetch / Weights::kBytes * Weights::kDepth;
  const int64_t last = block.depth < kLast ? block.depth : kLast;
  steps.template operator()<(R > kMostRowsUnasked)>(block.depth - last, kPrefetch);
  // The next panels, as far as this block reaches.
  const int64_t block_bytes = block.depth / Weights::kDepth * Weights::kBytes;
  steps.template operator()<true>(last, P * w_panel + kPrefetch - block_bytes);
#pragma GCC unroll 32
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 32
    for (int i = 0; i < P * kVecs; ++i) store(out + r * block.acc_stride + i * kLanes, acc[r][i]);
  }
}

// Panels [begin, end) for one group of rows.
template <class Weights, int R>
void multiply_group(const GemmBlock& block, int group, int begin, int end) {
  constexpr int kAtOnce = panels_at_once(R);
  const char* x = static_cast<const char*>(block.x) + group * block.x_group;
  const char* w = static_cast<const char*>(block.w);
  float* acc = block.acc + static_cast<int64_t>(group) * kRowGroup * block.acc_stride;
  int panel = begin;
  for (; panel + kAtOnce <= end; panel += kAtOnce) {
    multiply<Weights, R, kAtOnce>(block, x, w + panel * block.w_panel, acc + panel * kPanel);
  }
  for (; panel < end; ++panel) {
    multiply<Weights, R, 1>(block, x, w + panel * block.w_panel, acc + panel * kPanel);
  }
}

// One group of `rows` <= R.
template <class Weights, int R>
void multiply_small_group(const GemmBlock& block) {
  if (block.rows == R) {
    multiply_group<Weights, R>(block, 0, 0, block.panels);
  } else if constexpr (R > 1) {
    multiply_small_group<Weights, R - 1>(block);
  }
}

// Full groups take turns on the same few panels, which stay in the first-level cache.
template <class Weights>
void gemm(const GemmBlock& block) {
  constexpr int kAtOnce = panels_at_once(kRowGroup);
  if (block.rows < kRowGroup) return multiply_small_group<Weights, kRowGroup - 1>(block);
  for (int panel = 0; panel < block.panels; panel += kAtOnce) {
    const int end = panel + kAtOnce < block.panels ? panel + kAtOnce : block.panels;
    for (int group = 0; group < block.rows / kRowGroup; ++group) {
      multiply_group<Weights, kRowGroup>(block, group, panel, end);
    }
  }
}

LONGHAUL_INLINE float load_scalar(const float* p) {
  return *p;
}
LONGHAUL_INLINE float load_scalar(const uint16_t* p) {
  return bf16_to_f32(*p);
}
LONGHAUL_INLINE uint16_t to_bf16_bits(float x) {
  return f32_to_bf16(x);
}
LONGHAUL_INLINE uint16_t to_bf16_bits(uint16_t x) {
  return x;
}

// Values of K whose interleaved rows fit the first-level cache.
constexpr int64_t kPackDepth = 256;

template <class T>
void pack_pairs_of(const PackRows& pack) {
  uint32_t* out = static_cast<uint32_t*>(pack.out);
  for (int64_t begin = 0; begin < pack.depth; begin += kPackDepth) {
    const int64_t end = begin + kPackDepth < pack.depth ? begin + kPackDepth : pack.depth;
    for (int r = 0; r < pack.rows; ++r) {
      const T* x = static_cast<const T*>(pack.x) + r * pack.stride;
      for (int64_t k = begin; k < end; k += 2) {
        const uint32_t first = to_bf16_bits(x[k]);
        const uint32_t second = k + 1 < pack.cols ? to_bf16_bits(x[k + 1]) : 0;
        out[k / 2 * pack.rows + r] = first | second << 16;
      }
    }
  }
}

template <class T>
void pack_f32_of(const PackRows& pack) {
  float* out = static_cast<float*>(pack.out);
  for (int64_t begin = 0; begin < pack.depth; begin += kPackDepth) {
    const int64_t end = begin + kPackDepth < pack.depth ? begin + kPackDepth : pack.depth;
    for (int r = 0; r < pack.rows; ++r) {
      const T* x = static_cast<const T*>(pack.x) + r * pack.stride;
      for (int64_t k = begin; k < end; ++k) out[k * pack.rows + r] = k < pack.cols ? load_scalar(x + k) : 0.0f;
    }
  }
}

}  // namespace

void pack_pairs(const PackRows& pack) {
  pack.type == Element::kF32 ? pack_pairs_of<float>(pack) : pack_pairs_of<uint16_t>(pack);
}

void pack_f32(const PackRows& pack) {
  pack.type == Element::kF32 ? pack_f32_of<float>(pack) : pack_f32_of<uint16_t>(pack);
}

void gemm_f32(const GemmBlock& block) {
  gemm<F32Weights>(block);
}
void gemm_bf16(const GemmBlock& block) {
  gemm<Bf16Weights>(block);
}
void gemm_f16(const GemmBlock& block) {
  gemm<F16Weights>(block);
}

}  // namespace longhaul::LONGHAUL_ISA_NAMESPACE
