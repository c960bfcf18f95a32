// Queries times keys. Two pages of keys are transposed once into a small buffer, so that lanes are keys and a
// score is a plain chain of multiply-adds over the dimensions; all rows of a tile share the transposed keys.
#include "cpu/isa/attention_tile.h"

namespace longhaul::LONGHAUL_ISA_NAMESPACE {
namespace {

// Keys transposed at a time: two vectors, so that a broadcast query value feeds two multiply-adds.
constexpr int kBlockKeys = 2 * kLanes;
static_assert(kBlockKeys <= cpu::kMaxBlockKeys);

// Rows at once: two sums each, which hide the latency of a multiply-add.
#if defined(LONGHAUL_ISA_512)
constexpr int kBlockRows = 8;
#else
constexpr int kBlockRows = 4;
#endif

// low = a0 b0 a1 b1 ..., high = the same of the upper halves.
LONGHAUL_INLINE void interleave(Vec a, Vec b, Vec& low, Vec& high) {
#if defined(LONGHAUL_ISA_512)
  const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i second = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  low = _mm512_permutex2var_ps(a, first, b);
  high = _mm512_permutex2var_ps(a, second, b);
#elif defined(LONGHAUL_ISA_avx2)
  const Vec even = _mm256_unpacklo_ps(a, b);
  const Vec odd = _mm256_unpackhi_ps(a, b);
  low = _mm256_permute2f128_ps(even, odd, 0x20);
  high = _mm256_permute2f128_ps(even, odd, 0x31);
#else
  low = Vec{a[0], b[0], a[1], b[1]};
  high = Vec{a[2], b[2], a[3], b[3]};
#endif
}

// log2(kLanes) perfect shuffles transpose a square.
LONGHAUL_INLINE void transpose(Vec (&x)[kLanes]) {
#pragma GCC unroll 4
  for (int step = 1; step < kLanes; step *= 2) {
    Vec y[kLanes];
#pragma GCC unroll 8
    for (int i = 0; i < kLanes / 2; ++i) interleave(x[i], x[i + kLanes / 2], y[2 * i], y[2 * i + 1]);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) x[i] = y[i];
  }
}

// A unit is what one 32-bit lane holds of a key: one value as f32 ...
template <class Values>
struct ValueUnits : Values {
  static constexpr int kDims = 1;
  static LONGHAUL_INLINE Vec load_units(const typename Values::Type* p, int units) {
    return load_first<Values>(p, units);
  }
  static LONGHAUL_INLINE Vec multiply_add(Vec key, Vec q, Vec sum) { return fma(key, q, sum); }
};

#if defined(LONGHAUL_ISA_avx512bf16)
// ... or two neighbouring bf16 values as they are.
struct PairUnits : Bf16Values {
  static constexpr int kDims = 2;
  static LONGHAUL_INLINE Vec load_units(const uint16_t* p, int units) {
    if (units >= kLanes) return _mm512_castsi512_ps(_mm512_loadu_si512(p));
    return _mm512_castsi512_ps(_mm512_maskz_loadu_epi32(static_cast<__mmask16>((1u << units) - 1), p));
  }
  static LONGHAUL_INLINE Vec multiply_add(Vec key, Vec q, Vec sum) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(key), reinterpret_cast<__m512bh>(q));
  }
};
#endif

// out[unit][key] for kBlockKeys keys from `first` on; units are padded to whole vectors with zeros. Asks for
// the same lines of the values, and of the keys that come next: pages lie scattered, so the processor cannot
// guess them.
template <class Units>
void transpose_keys(const void* const* pages, const void* const* values, int first, int dim, float* out) {
  constexpr int kUnitBytes = Units::kDims * sizeof(typename Units::Type);
  const int units = dim / Units::kDims;
  const int next = first + kBlockKeys < kChunkKeys ? kBlockKeys : 0;
  for (int half = 0; half < kBlockKeys; half += kLanes) {
    for (int unit = 0; unit < units; unit += kLanes) {
      const auto row = [&](const void* const* from, int i) __attribute__((always_inline)) {
        return chunk_row<Units>(from, first + half + i, dim) + unit * Units::kDims;
      };
      if (unit * kUnitBytes % 64 == 0) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) {
          __builtin_prefetch(row(pages, next + i));
          if (values != nullptr) __builtin_prefetch(row(values, i));
        }
      }
      Vec x[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) x[i] = Units::load_units(row(pages, i), units - unit);
      transpose(x);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) store(out + (unit + i) * kBlockKeys + half, x[i]);
    }
  }
}

template <class Units, int kRows>
LONGHAUL_INLINE void score_rows(const float* q, int q_stride, const float* keys, int units, Vec scale,
                                float* scores) {
  Vec low[kRows], high[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) low[r] = high[r] = zero();
  for (int unit = 0; unit < units; ++unit) {
    const Vec key_low = load(keys + unit * kBlockKeys);
    const Vec key_high = load(keys + unit * kBlockKeys + kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec value = splat(q[r * q_stride + unit]);
      low[r] = Units::multiply_add(key_low, value, low[r]);
      high[r] = Units::multiply_add(key_high, value, high[r]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    store(scores + r * kScoreStride, mul(low[r], scale));
    store(scores + r * kScoreStride + kLanes, mul(high[r], scale));
  }
}

// The last rows of a tile, fewer than kBlockRows, in one go too: few rows are all there is when decoding.
template <class Units, int kRows>
void score_last_rows(int rows, const float* q, int q_stride, const float* keys, int units, Vec scale,
                     float* scores) {
  if constexpr (kRows > 0) {
    if (rows == kRows) return score_rows<Units, kRows>(q, q_stride, keys, units, scale, scores);
    score_last_rows<Units, kRows - 1>(rows, q, q_stride, keys, units, scale, scores);
  }
}

template <class Units>
void score_tile_of(const ScoreTile& t, const void* const* values) {
  const int units = t.dim / Units::kDims;
  const int stride = padded_dim(t.dim);
  const Vec scale = splat(t.scale);
  const int keys = t.visible[t.rows - 1];
  int row = 0;
  for (int key = 0; key < keys; key += kBlockKeys) {
    while (t.visible[row] <= key) ++row;
    transpose_keys<Units>(t.keys, values, key, t.dim, t.transposed);
    const float* q = t.q + row * stride;
    float* scores = t.scores + row * kScoreStride + key;
    int rows = t.rows - row;
    for (; rows >= kBlockRows; rows -= kBlockRows) {
      score_rows<Units, kBlockRows>(q, stride, t.transposed, units, scale, scores);
      q += kBlockRows * stride;
      scores += kBlockRows * kScoreStride;
    }
    score_last_rows<Units, kBlockRows - 1>(rows, q, stride, t.transposed, units, scale, scores);
  }
}

}  // namespace

void score_tile(const ScoreTile& tile, const void* const* values) {
#if defined(LONGHAUL_ISA_avx512bf16)
  if (tile.pairs) return score_tile_of<PairUnits>(tile, values);
#endif
  with_values(tile.type, [&]<class Values>(Values) { score_tile_of<ValueUnits<Values>>(tile, values); });
}

}  // namespace longhaul::LONGHAUL_ISA_NAMESPACE
