// Queries times keys. The keys of a page are transposed once into a small buffer, so that lanes are keys and a
// score is a plain chain of multiply-adds over the dimensions; all rows of a tile share the transposed keys.
#include "cpu/isa/attention_tile.h"

namespace longhaul::LONGHAUL_ISA_NAMESPACE {
namespace {

// Keys transposed at a time: two vectors, so that a broadcast query value feeds two multiply-adds.
constexpr int kBlockKeys = 2 * kLanes;

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
    alignas(64) uint16_t lane[2 * kLanes] = {};
    for (int i = 0; i < 2 * units; ++i) lane[i] = p[i];
    return _mm512_castsi512_ps(_mm512_load_si512(lane));
  }
  static LONGHAUL_INLINE Vec multiply_add(Vec key, Vec q, Vec sum) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(key), reinterpret_cast<__m512bh>(q));
  }
};
#endif

// out[unit][key] for kBlockKeys keys from `first` on; units are padded to whole vectors with zeros.
template <class Units>
void transpose_keys(const void* const* pages, int first, int dim, float* out) {
  const int units = dim / Units::kDims;
  for (int half = 0; half < kBlockKeys; half += kLanes) {
    for (int unit = 0; unit < units; unit += kLanes) {
      Vec x[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        x[i] = Units::load_units(chunk_row<Units>(pages, first + half + i, dim) + unit * Units::kDims,
                                 units - unit);
      }
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
    store(scores + r * kChunkKeys, mul(low[r], scale));
    store(scores + r * kChunkKeys + kLanes, mul(high[r], scale));
  }
}

// Asks for the lines of rows [first, first + kBlockKeys) that are not beyond `rows`. Pages lie scattered, so
// the processor cannot guess the next one.
template <class Units>
LONGHAUL_INLINE void fetch_rows(const void* const* pages, int first, int rows, int dim) {
  constexpr int kLine = 64 / sizeof(typename Units::Type);
  const int end = first + kBlockKeys < rows ? first + kBlockKeys : rows;
  for (int row = first; row < end; row += kKernelPageRows) {
    const auto* values = chunk_row<Units>(pages, row, dim);
    const int count = (end - row < kKernelPageRows ? end - row : kKernelPageRows) * dim;
    for (int i = 0; i < count; i += kLine) __builtin_prefetch(values + i, 0, 2);
  }
}

template <class Units>
void score_tile_of(const ScoreTile& t, const void* const* values) {
  const int units = t.dim / Units::kDims;
  const int stride = padded_dim(t.dim);
  const Vec scale = splat(t.scale);
  const int keys = t.visible[t.rows - 1];
  int row_begin = 0;
  for (int key = 0; key < keys; key += kBlockKeys) {
    while (t.visible[row_begin] <= key) ++row_begin;
    fetch_rows<Units>(t.keys, key + kBlockKeys, keys, t.dim);
    if (values != nullptr) fetch_rows<Units>(values, key, keys, t.dim);
    transpose_keys<Units>(t.keys, key, t.dim, t.transposed);
    const auto score = [&]<int kRows>(int row) __attribute__((always_inline)) {
      score_rows<Units, kRows>(t.q + row * stride, stride, t.transposed, units, scale,
                               t.scores + row * kChunkKeys + key);
    };
    int row = row_begin;
    for (; row + kBlockRows <= t.rows; row += kBlockRows) score.template operator()<kBlockRows>(row);
    if (kBlockRows > 4 && row + 4 <= t.rows) score.template operator()<4>(row), row += 4;
    if (row + 2 <= t.rows) score.template operator()<2>(row), row += 2;
    if (row < t.rows) score.template operator()<1>(row);
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
