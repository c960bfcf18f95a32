// Softmax weights times values, for a few rows of a score tile at a time.
#include "cpu/isa/attention_tile.h"

namespace longhaul::LONGHAUL_ISA_NAMESPACE {
namespace {

// Rows that share a loaded value, and vectors of values held at a time: their product is the number of sums,
// enough to hide the latency of a multiply-add. Of many rows the next ones take kBlockRows; a few more than
// that, as a group of heads may have, still read the values once.
#if defined(LONGHAUL_ISA_512)
constexpr int kBlockRows = 6;
constexpr int kMostRows = 8;
constexpr int value_vecs(int rows) {
  return rows <= kBlockRows ? 4 : 2;
}
#else
constexpr int kBlockRows = 4;
constexpr int kMostRows = 4;
constexpr int value_vecs(int) {
  return 2;
}
#endif
static_assert(kMergeRows % kBlockRows == 0);

constexpr int next_rows(int left) {
  return left <= kMostRows ? left : kBlockRows;
}

// A term is what one lane adds to a sum at once: the value of one key as f32 ...
template <class Values>
struct ValueTerms : Values {
  static constexpr int kKeys = 1;

  // kVecs vectors of values, or the `left` last of a row (kVecs = 1).
  template <int kVecs>
  static LONGHAUL_INLINE void load_terms(const typename Values::Type* row, bool, int, int left,
                                         Vec (&out)[kVecs]) {
    if constexpr (kVecs == 1) {
      out[0] = load_first<Values>(row, left);
    } else {
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) out[v] = Values::load_all(row + v * kLanes);
    }
  }
  static LONGHAUL_INLINE Vec weight(const float* weights, int key) {
    return splat(weights[key]);
  }
  static LONGHAUL_INLINE Vec multiply_add(Vec weight, Vec value, Vec sum) {
    return fma(weight, value, sum);
  }

  static LONGHAUL_INLINE void softmax(float* scores, int n, float* max, float* sum) {
    softmax_row<1>(
        scores, n, max,
        sum, [=](int i, const Vec(&power)[1]) __attribute__((always_inline)) { store(scores + i, power[0]); });
  }
};

#if defined(LONGHAUL_ISA_avx512bf16)
// ... or the bf16 values of two neighbouring keys, with weights rounded to bf16. These take the place of the
// scores, as many to a row's first half.
struct PairTerms : Bf16Values {
  static constexpr int kKeys = 2;

  // Of the row and the one `dim` behind, if `both` are there: a row beyond the last one must not even be
  // multiplied by zero, it may be infinite.
  template <int kVecs>
  static LONGHAUL_INLINE void load_terms(const uint16_t* row, bool both, int dim, int left, Vec (&out)[kVecs]) {
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7,
                                         38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high = _mm512_set_epi16(63, 31, 62, 30, 61, 29, 60, 28, 59, 27, 58, 26, 57, 25, 56, 24, 55,
                                          23, 54, 22, 53, 21, 52, 20, 51, 19, 50, 18, 49, 17, 48, 16);
    if constexpr (kVecs == 1) {
      const auto mask = static_cast<__mmask32>((1u << (left < kLanes ? left : kLanes)) - 1);
      const __m512i first = _mm512_castsi256_si512(_mm256_maskz_loadu_epi16(static_cast<__mmask16>(mask), row));
      const __m512i second = _mm512_maskz_loadu_epi16(both ? mask : 0, row + dim);
      out[0] = _mm512_castsi512_ps(_mm512_permutex2var_epi16(first, low, second));
    } else {
#pragma GCC unroll 2
      for (int v = 0; v < kVecs; v += 2) {
        const __m512i first = _mm512_loadu_si512(row + v * kLanes);
        const __m512i second = both ? _mm512_loadu_si512(row + dim + v * kLanes) : _mm512_setzero_si512();
        out[v] = _mm512_castsi512_ps(_mm512_permutex2var_epi16(first, low, second));
        out[v + 1] = _mm512_castsi512_ps(_mm512_permutex2var_epi16(first, high, second));
      }
    }
  }
  static LONGHAUL_INLINE Vec weight(const float* weights, int key) {
    return splat(weights[key / 2]);
  }
  static LONGHAUL_INLINE Vec multiply_add(Vec weight, Vec value, Vec sum) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(value), reinterpret_cast<__m512bh>(weight));
  }

  static LONGHAUL_INLINE void softmax(float* scores, int n, float* max, float* sum) {
    softmax_row<2>(
        scores, n, max, sum, [=](int i, const Vec(&power)[2]) __attribute__((always_inline)) {
          const __m512bh pairs = _mm512_cvtne2ps_pbh(power[1], power[0]);
          _mm512_storeu_ps(scores + i / 2, reinterpret_cast<__m512>(pairs));
        });
  }
};
#endif

// Values that kRows rows add up: keys [begin, end) of the pages, dimensions d and up.
struct Span {
  const float* weights;  // [rows, kScoreStride]
  const void* const* values;
  FetchPages fetch;
  int begin, end;
  int dim, d;
  float* sums;  // [rows, padded dim], written when begin = 0, else added to
};

// Keys in order, from an even one on.
template <class Terms, int kRows, int kVecs, bool kFetch>
LONGHAUL_INLINE void add_values(const Span& s) {
  using Type = typename Terms::Type;
  constexpr int kStep = kLine / static_cast<int>(sizeof(Type));
  const int dim = s.dim;
  const int left = dim - s.d;
  const int stride = padded_dim(dim);
  float* sums = s.sums + s.d;
  Vec sum[kRows][kVecs];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) sum[r][v] = s.begin == 0 ? zero() : load(sums + r * stride + v * kLanes);
  }
  const auto add = [&](const Type* row, bool both, int key) __attribute__((always_inline)) {
    Vec value[kVecs];
    Terms::load_terms(row, both, dim, left, value);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec weight = Terms::weight(s.weights + r * kScoreStride, key);
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) sum[r][v] = Terms::multiply_add(weight, value[v], sum[r][v]);
    }
  };
  for (int key = s.begin; key < s.end;) {
    const int page_end = (key / kKernelPageRows + 1) * kKernelPageRows;
    const int end = page_end < s.end ? page_end : s.end;
    const Type* row = chunk_row<Terms>(s.values, key, dim) + s.d;
    const Type* far = row;
    const Type* near = row;
    if constexpr (kFetch) {
      far = chunk_row<Terms>(s.fetch.far, key, dim) + s.d;
      near = chunk_row<Terms>(s.fetch.near, key, dim) + s.d;
    }
    for (; key + Terms::kKeys <= end; key += Terms::kKeys) {
      if constexpr (kFetch) {
#pragma GCC unroll 2
        for (int k = 0; k < Terms::kKeys; ++k) {
#pragma GCC unroll 4
          for (int i = 0; i < kVecs * kLanes; i += kStep) {
            __builtin_prefetch(far + k * dim + i);
            __builtin_prefetch(near + k * dim + i);
          }
        }
      }
      add(row, true, key);
      row += Terms::kKeys * dim;
      far += Terms::kKeys * dim;
      near += Terms::kKeys * dim;
    }
    if (Terms::kKeys > 1 && key < end) {
      add(row, false, key);
      ++key;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) store(sums + r * stride + v * kLanes, sum[r][v]);
  }
}

template <class Terms, int kRows, bool kFetch>
void add_rows(Span s) {
  constexpr int kVecs = value_vecs(kRows);
  for (; s.d + kVecs * kLanes <= s.dim; s.d += kVecs * kLanes) add_values<Terms, kRows, kVecs, kFetch>(s);
  if constexpr (kVecs > 2) {
    for (; s.d + 2 * kLanes <= s.dim; s.d += 2 * kLanes) add_values<Terms, kRows, 2, kFetch>(s);
  }
  for (; s.d < s.dim; s.d += kLanes) add_values<Terms, kRows, 1, kFetch>(s);
}

template <class Terms, int kRows = kMostRows>
void add_rows_of(int rows, const Span& s) {
  if constexpr (kRows > 0) {
    if (rows != kRows) return add_rows_of<Terms, kRows - 1>(rows, s);
    return s.fetch.far != nullptr ? add_rows<Terms, kRows, true>(s) : add_rows<Terms, kRows, false>(s);
  }
}

// Softmax reads no pages: without this the memory would have nothing to do. Asks for part `part` of what the
// values' pages are followed by.
template <class Type>
LONGHAUL_INLINE void ask_meanwhile(const void* const* pages, int dim, int part) {
  const int page_bytes = kKernelPageRows * dim * static_cast<int>(sizeof(Type));
  const int bytes = page_bytes < 2048 ? page_bytes : 2048;
  const auto* from = static_cast<const char*>(pages[part * bytes / page_bytes]) + part * bytes % page_bytes;
  for (int i = 0; i < bytes; i += kLine) __builtin_prefetch(from + i);
}

template <class Terms>
void weigh_values_of(const ScoreTile& t, const ValueTile& values, int row, int rows, bool fetch,
                     const SoftmaxRows& out) {
  const int stride = padded_dim(t.dim);
  const int* visible = t.visible + row;
  float* weights = t.scores + row * kScoreStride;
  int r = 0;
  for (; r < rows && visible[r] == 0; ++r) {
    out.max[r] = kMinusInfinity;
    out.sum[r] = 0;
  }
  for (int i = r; i < rows; ++i) {
    if (fetch && i < kMostRows) ask_meanwhile<typename Terms::Type>(values.fetch.far, t.dim, i);
    Terms::softmax(weights + i * kScoreStride, visible[i], out.max + i, out.sum + i);
  }
  while (r < rows) {
    const int count = next_rows(rows - r);
    // Terms that all of these rows see, then what each one sees beyond: a later value must not even be
    // multiplied by zero, it may be infinite.
    const int last = visible[r + count - 1];
    const int common = visible[r] == last ? last : visible[r] / Terms::kKeys * Terms::kKeys;
    Span span = {.weights = weights + r * kScoreStride,
                 .values = values.values,
                 .fetch = fetch ? values.fetch : FetchPages{},
                 .begin = 0,
                 .end = common,
                 .dim = t.dim,
                 .d = 0,
                 .sums = out.accumulated + r * stride};
    add_rows_of<Terms>(count, span);
    span.fetch = {};
    span.begin = common;
    for (int i = 0; i < count; ++i, span.weights += kScoreStride, span.sums += stride) {
      span.end = visible[r + i];
      if (span.end > common) add_rows<Terms, 1, false>(span);
    }
    r += count;
    fetch = false;
  }
}

}  // namespace

void weigh_values(const ScoreTile& tile, const ValueTile& values, int row, int rows, bool fetch,
                  const SoftmaxRows& out) {
#if defined(LONGHAUL_ISA_avx512bf16)
  if (tile.form != QueryForm::kValues) return weigh_values_of<PairTerms>(tile, values, row, rows, fetch, out);
#endif
  with_values(tile.type, [&]<class Values>(Values) {
    weigh_values_of<ValueTerms<Values>>(tile, values, row, rows, fetch, out);
  });
}

}  // namespace longhaul::LONGHAUL_ISA_NAMESPACE
