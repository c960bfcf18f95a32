// Queries times keys. Two pages of keys are transposed once into a small buffer, so that lanes are keys and a
// score is a plain chain of multiply-adds over the dimensions; all rows of a tile share the transposed keys.
// Four rows are too few for that: there lanes are pairs of dimensions of two rows at a time, summed up at the
// end.
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

// out[unit][key] for kBlockKeys keys from `first` on; units are padded to whole vectors with zeros. Addresses
// are most of the work unless kDim says the dimension; 0 stands for any.
template <class Units, int kDim>
void transpose_keys(const void* const* pages, int first, int any_dim, float* out) {
  static_assert(kKernelPageRows % kLanes == 0);  // so that kLanes keys lie side by side
  const int dim = kDim == 0 ? any_dim : kDim;
  const int units = dim / Units::kDims;
  for (int half = 0; half < kBlockKeys; half += kLanes) {
    const auto* key = chunk_row<Units>(pages, first + half, dim);
    for (int unit = 0; unit < units; unit += kLanes) {
      Vec x[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        x[i] = Units::load_units(key + i * dim + unit * Units::kDims, units - unit);
      }
      transpose(x);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) store(out + (unit + i) * kBlockKeys + half, x[i]);
    }
  }
}

// What to ask for while a block of keys is worked on, evenly spread: at once it would keep the memory from
// answering anybody else. For each half of the block's keys the page far ahead and the near one.
struct Ahead {
  const char* half[2][2];
};

template <class Units>
Ahead ahead_of(const FetchPages& fetch, int key, int dim) {
  if (fetch.far == nullptr) return {};
  Ahead ahead;
  for (int half = 0; half < 2; ++half, key += kBlockKeys / 2) {
    ahead.half[half][0] = reinterpret_cast<const char*>(chunk_row<Units>(fetch.far, key, dim));
    ahead.half[half][1] = reinterpret_cast<const char*>(chunk_row<Units>(fetch.near, key, dim));
  }
  return ahead;
}

template <class Units, int kRows, bool kFetch>
LONGHAUL_INLINE void score_rows(const float* q, int q_stride, const float* keys, int units, Vec scale,
                                const Ahead& ahead, float* scores) {
  constexpr int kUnitBytes = kBlockKeys * Units::kDims * sizeof(typename Units::Type);
  Vec low[kRows], high[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) low[r] = high[r] = zero();
  const auto multiply = [&](int unit) __attribute__((always_inline)) {
    const Vec key_low = load(keys + unit * kBlockKeys);
    const Vec key_high = load(keys + unit * kBlockKeys + kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec value = splat(q[r * q_stride + unit]);
      low[r] = Units::multiply_add(key_low, value, low[r]);
      high[r] = Units::multiply_add(key_high, value, high[r]);
    }
  };
  if constexpr (kFetch) {
    int unit = 0;
    for (int half = 0; half < 2; ++half) {
      const char* far = ahead.half[half][0];
      const char* near = ahead.half[half][1];
      for (const int end = (half + 1) * units / 2; unit < end; ++unit) {
#pragma GCC unroll 4
        for (int byte = 0; byte < kUnitBytes; byte += kLine) {
          __builtin_prefetch(far + byte);
          __builtin_prefetch(near + byte);
        }
        far += kUnitBytes;
        near += kUnitBytes;
        multiply(unit);
      }
    }
  } else {
    for (int unit = 0; unit < units; ++unit) multiply(unit);
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    store(scores + r * kScoreStride, mul(low[r], scale));
    store(scores + r * kScoreStride + kLanes, mul(high[r], scale));
  }
}

// Up to kRows rows in one go: few rows are all there is when decoding.
template <class Units, int kRows, bool kFetch>
void score_few_rows(int rows, const float* q, int q_stride, const float* keys, int units, Vec scale,
                    const Ahead& ahead, float* scores) {
  if constexpr (kRows > 0) {
    if (rows >= kRows) {
      return score_rows<Units, kRows, kFetch>(q, q_stride, keys, units, scale, ahead, scores);
    }
    score_few_rows<Units, kRows - 1, kFetch>(rows, q, q_stride, keys, units, scale, ahead, scores);
  }
}

template <class Units>
void score_tile_of(const ScoreTile& t) {
  const int units = t.dim / Units::kDims;
  const int stride = padded_dim(t.dim);
  const Vec scale = splat(t.scale);
  const auto transpose = t.dim == 64    ? transpose_keys<Units, 64>
                         : t.dim == 128 ? transpose_keys<Units, 128>
                                        : transpose_keys<Units, 0>;
  const int keys = t.visible[t.rows - 1];
  int row = 0;
  for (int key = 0; key < keys; key += kBlockKeys) {
    while (t.visible[row] <= key) ++row;
    transpose(t.keys, key, t.dim, t.transposed);
    const Ahead ahead = ahead_of<Units>(t.fetch, key, t.dim);
    bool fetch = t.fetch.far != nullptr;
    for (int r = row; r < t.rows; r += kBlockRows, fetch = false) {
      const auto score =
          fetch ? score_few_rows<Units, kBlockRows, true> : score_few_rows<Units, kBlockRows, false>;
      score(t.rows - r, t.q + r * stride, stride, t.transposed, units, scale, ahead,
            t.scores + r * kScoreStride + key);
    }
  }
}

#if defined(LONGHAUL_ISA_avx512bf16)
// Eight keys: sums[i] holds eight chains of a quad's first or second row, then of the next one, with key i. The
// chains are added up; scores of the first row go to `scores`, those of the next one a stride behind.
LONGHAUL_INLINE void store_scores(const Vec (&sums)[8], Vec scale, float* scores) {
  Vec half[2];  // lanes: four keys of chains 0 to 3, 4 to 7 added in pairs, then the next row
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const Vec* s = sums + 4 * i;
    const Vec first = add(_mm512_unpacklo_ps(s[0], s[1]), _mm512_unpackhi_ps(s[0], s[1]));
    const Vec second = add(_mm512_unpacklo_ps(s[2], s[3]), _mm512_unpackhi_ps(s[2], s[3]));
    half[i] = add(_mm512_shuffle_ps(first, second, 0x44), _mm512_shuffle_ps(first, second, 0xee));
  }
  const Vec total =
      add(_mm512_shuffle_f32x4(half[0], half[1], 0x88), _mm512_shuffle_f32x4(half[0], half[1], 0xdd));
  const Vec scaled = mul(_mm512_shuffle_f32x4(total, total, 0xd8), scale);
  _mm256_storeu_ps(scores, lower_half(scaled));
  _mm256_storeu_ps(scores + kScoreStride, upper_half(scaled));
}

// One page of keys, kQuadRows rows. Fetches as many lines as it reads.
template <int kDim, bool kFetch>
void score_page(const char* keys, const char* far, const char* near, const char* q, int any_dim, Vec scale,
                float* scores) {
  constexpr int kKeys = 8;
  const int dim = kDim == 0 ? any_dim : kDim;
  for (int key = 0; key < kKernelPageRows; key += kKeys, keys += kKeys * 2 * dim) {
    Vec sums[2][kKeys];
#pragma GCC unroll 8
    for (int i = 0; i < kKeys; ++i) sums[0][i] = sums[1][i] = zero();
    for (int d = 0; d < dim; d += 16) {
      if constexpr (kFetch) {
#pragma GCC unroll 4
        for (int line = 0; line < 4; ++line, far += kLine, near += kLine) {
          __builtin_prefetch(far);
          __builtin_prefetch(near);
        }
      }
      const auto first = reinterpret_cast<__m512bh>(load(reinterpret_cast<const float*>(q + 8 * d)));
      const auto second = reinterpret_cast<__m512bh>(load(reinterpret_cast<const float*>(q + 8 * d + 64)));
#pragma GCC unroll 8
      for (int i = 0; i < kKeys; ++i) {
        const auto* part = reinterpret_cast<const __m256i*>(keys + 2 * (i * dim + d));
        const auto twice = reinterpret_cast<__m512bh>(_mm512_broadcast_i64x4(_mm256_loadu_si256(part)));
        sums[0][i] = _mm512_dpbf16_ps(sums[0][i], twice, first);
        sums[1][i] = _mm512_dpbf16_ps(sums[1][i], twice, second);
      }
    }
    store_scores(sums[0], scale, scores + key);
    store_scores(sums[1], scale, scores + 2 * kScoreStride + key);
  }
}

template <int kDim>
void score_quads(const ScoreTile& t) {
  const Vec scale = splat(t.scale);
  const int keys = t.visible[t.rows - 1];
  for (int page = 0; page * kKernelPageRows < keys; ++page) {
    const auto* from = static_cast<const char*>(t.keys[page]);
    float* scores = t.scores + page * kKernelPageRows;
    score_page<kDim, true>(from, static_cast<const char*>(t.fetch.far[page]),
                           static_cast<const char*>(t.fetch.near[page]), reinterpret_cast<const char*>(t.q),
                           t.dim, scale, scores);
    for (int row = kQuadRows; row < t.rows; row += kQuadRows) {
      score_page<kDim, false>(from, nullptr, nullptr,
                              reinterpret_cast<const char*>(t.q + row / kQuadRows * quad_floats(t.dim)), t.dim,
                              scale, scores + row * kScoreStride);
    }
  }
}

void score_quads_of_tile(const ScoreTile& t) {
  t.dim == 64 ? score_quads<64>(t) : t.dim == 128 ? score_quads<128>(t) : score_quads<0>(t);
}
#endif

}  // namespace

void score_tile(const ScoreTile& tile) {
#if defined(LONGHAUL_ISA_avx512bf16)
  if (tile.form == QueryForm::kQuads) return score_quads_of_tile(tile);
  if (tile.form == QueryForm::kPairs) return score_tile_of<PairUnits>(tile);
#endif
  with_values(tile.type, [&]<class Values>(Values) { score_tile_of<ValueUnits<Values>>(tile); });
}

}  // namespace longhaul::LONGHAUL_ISA_NAMESPACE
