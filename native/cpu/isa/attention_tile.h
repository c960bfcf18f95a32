// Rows of 16- and 32-bit values, and the score tile, for the files of native/cpu/isa that look at pages.
#pragma once

#include "cpu/isa/attention_kernels.h"
#include "cpu/isa/simd.h"

namespace longhaul::LONGHAUL_ISA_NAMESPACE {

using cpu::Element;
using cpu::FetchPages;
using cpu::kChunkKeys;
using cpu::kKernelPageRows;
using cpu::kMergeRows;
using cpu::kQuadRows;
using cpu::kScoreStride;
using cpu::padded_dim;
using cpu::quad_floats;
using cpu::QueryForm;
using cpu::ScoreTile;
using cpu::SoftmaxRows;
using cpu::ValueTile;

constexpr int kLine = 64;  // bytes that are asked for at once

constexpr float kMinusInfinity = -__builtin_huge_valf();

// ---- element types ------------------------------------------------------------------------------------------

struct F32Values {
  using Type = float;
  static LONGHAUL_INLINE Vec load_all(const float* p) { return load(p); }
  static LONGHAUL_INLINE void store_all(float* p, Vec x) { store(p, x); }
};
struct Bf16Values {
  using Type = uint16_t;
  static LONGHAUL_INLINE Vec load_all(const uint16_t* p) { return load_bf16(p); }
  static LONGHAUL_INLINE void store_all(uint16_t* p, Vec x) { store_bf16(p, x); }
};
struct F16Values {
  using Type = uint16_t;
  static LONGHAUL_INLINE Vec load_all(const uint16_t* p) { return load_f16(p); }
  static LONGHAUL_INLINE void store_all(uint16_t* p, Vec x) { store_f16(p, x); }
};

// Calls body with a value of the type's class.
template <class Body>
LONGHAUL_INLINE void with_values(Element type, Body&& body) {
  switch (type) {
    case Element::kF32:
      return body(F32Values{});
    case Element::kBf16:
      return body(Bf16Values{});
    case Element::kF16:
      return body(F16Values{});
  }
}

// The first min(n, kLanes) values; the other lanes are 0.
template <class Values>
LONGHAUL_INLINE Vec load_first(const typename Values::Type* p, int n) {
  if (n >= kLanes) return Values::load_all(p);
  alignas(64) typename Values::Type lane[kLanes] = {};
  for (int i = 0; i < n; ++i) lane[i] = p[i];
  return Values::load_all(lane);
}

template <class Values>
LONGHAUL_INLINE void store_first(typename Values::Type* p, Vec x, int n) {
  if (n >= kLanes) return Values::store_all(p, x);
  alignas(64) typename Values::Type lane[kLanes];
  Values::store_all(lane, x);
  for (int i = 0; i < n; ++i) p[i] = lane[i];
}

// Row `row` of a chunk.
template <class Values>
LONGHAUL_INLINE const typename Values::Type* chunk_row(const void* const* pages, int row, int dim) {
  return static_cast<const typename Values::Type*>(pages[row / kKernelPageRows]) + row % kKernelPageRows * dim;
}

// ---- score tile ---------------------------------------------------------------------------------------------

// Writes the scaled scores of every row against the keys that the last row sees. Each score is one chain over
// the dimensions in order, or eight of them in QueryForm::kQuads, whatever the other rows are.
void score_tile(const ScoreTile& tile);

// Largest of a row's first n scores, rounded up, and the sum of 2^(score - max). `store_at(i, p)` takes these
// powers, of kPower keys at a time, 0 beyond n.
template <int kPower, class Store>
LONGHAUL_INLINE void softmax_row(float* scores, int n, float* max, float* sum, Store store_at) {
  constexpr int kStep = kPower * kLanes;
  const int end = (n + kStep - 1) / kStep * kStep;
  for (int i = n; i < end; ++i) scores[i] = kMinusInfinity;
  Vec largest = load(scores);
  for (int i = kLanes; i < end; i += kLanes) {
    largest = longhaul::LONGHAUL_ISA_NAMESPACE::max(largest, load(scores + i));
  }
  // A whole number: parts of a row with other maxima then have the very same powers, scaled by powers of two,
  // and differ in the order of sums only.
  *max = __builtin_ceilf(reduce_max(largest));
  const Vec shift = splat(*max);
  Vec total = zero();
  for (int i = 0; i < end; i += kStep) {
    Vec power[kPower];
#pragma GCC unroll 2
    for (int j = 0; j < kPower; ++j) {
      power[j] = exp2_nonpositive(sub(load(scores + i + j * kLanes), shift));
      total = add(total, power[j]);
    }
    store_at(i, power);
  }
  *sum = reduce_add(total);
}

// ---- value tile ---------------------------------------------------------------------------------------------

// Turns `rows` rows of scores, tile rows [row, row + rows), into the softmax state `out` of these rows, which
// start at its row 0. Pages are fetched only when `fetch` is set.
void weigh_values(const ScoreTile& tile, const ValueTile& values, int row, int rows, bool fetch,
                  const SoftmaxRows& out);

// ---- entries of the table -----------------------------------------------------------------------------------

void softmax_chunk(const ScoreTile& tile, float* max, float* sum);
void reduce_max_chunk(const ScoreTile& tile, const float* lse, float* largest);
void reduce_sum_chunk(const ScoreTile& tile, const float* lse, float* total);
void sum_units(const void* const* keys, const void* const* fetch, Element type, int rows, int dim,
               float* total);
void score_units(const void* const* keys, const void* const* fetch, Element type, int rows, int dim,
                 const float* direction, float* out);
void store_rotated(const void* x, Element from, const float* cos, const float* sin, int dim, void* out,
                   Element to);
void exp_row(float* x, int64_t n, float max, float scale);

}  // namespace longhaul::LONGHAUL_ISA_NAMESPACE
