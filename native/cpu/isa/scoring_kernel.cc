// What scoring, appending and sampling need beside the score tile.
#include "cpu/isa/attention_tile.h"

namespace longhaul::LONGHAUL_ISA_NAMESPACE {

void softmax_chunk(const ScoreTile& tile, float* max, float* sum) {
  score_tile(tile);
  for (int row = 0; row < tile.rows; ++row) {
    if (tile.visible[row] == 0) {
      max[row] = kMinusInfinity;
      sum[row] = 0;
    } else {
      softmax_row<1>(tile.scores + row * kScoreStride, tile.visible[row], max + row, sum + row,
                     [](int, const Vec(&)[1]) {});
    }
  }
}

void reduce_max_chunk(const ScoreTile& tile, const float* lse, float* largest) {
  score_tile(tile);
  const int keys = tile.visible[tile.rows - 1];
  for (int key = 0; key < keys; key += kLanes) {
    Vec result = load(largest + key);
    for (int row = 0; row < tile.rows; ++row) {
      result = max(result, sub(load(tile.scores + row * kScoreStride + key), splat(lse[row])));
    }
    store(largest + key, result);
  }
}

void reduce_sum_chunk(const ScoreTile& tile, const float* lse, float* total) {
  score_tile(tile);
  const int keys = tile.visible[tile.rows - 1];
  for (int key = 0; key < keys; key += kLanes) {
    Vec result = load(total + key);
    for (int row = 0; row < tile.rows; ++row) {
      result =
          add(result, exp2_nonpositive(sub(load(tile.scores + row * kScoreStride + key), splat(lse[row]))));
    }
    store(total + key, result);
  }
}

namespace {

// 1 / |k|, 0 for a zero key.
template <class Values>
LONGHAUL_INLINE float inverse_norm(const typename Values::Type* key, int dim) {
  Vec squares = zero();
  for (int d = 0; d < dim; d += kLanes) {
    const Vec k = load_first<Values>(key + d, dim - d);
    squares = fma(k, k, squares);
  }
  const float sum = reduce_add(squares);
  return sum == 0 ? 0.0f : 1.0f / __builtin_sqrtf(sum);
}

template <class From, class To>
void rotate_row(const typename From::Type* x, const float* cos, const float* sin, int dim,
                typename To::Type* out) {
  if (cos == nullptr) {
    for (int d = 0; d < dim; d += kLanes) store_first<To>(out + d, load_first<From>(x + d, dim - d), dim - d);
    return;
  }
  const int half = dim / 2;
  for (int d = 0; d < half; d += kLanes) {
    const int n = half - d;
    const Vec c = load_first<F32Values>(cos + d, n);
    const Vec s = load_first<F32Values>(sin + d, n);
    const Vec a = load_first<From>(x + d, n);
    const Vec b = load_first<From>(x + half + d, n);
    store_first<To>(out + d, sub(mul(a, c), mul(b, s)), n);
    store_first<To>(out + half + d, add(mul(b, c), mul(a, s)), n);
  }
}

}  // namespace

void sum_units(const void* const* keys, Element type, int rows, int dim, float* total) {
  memset(total, 0, static_cast<size_t>(padded_dim(dim)) * sizeof(float));
  with_values(type, [&]<class Values>(Values) {
    for (int row = 0; row < rows; ++row) {
      const auto* key = chunk_row<Values>(keys, row, dim);
      const Vec factor = splat(inverse_norm<Values>(key, dim));
      for (int d = 0; d < dim; d += kLanes) {
        store(total + d, fma(load_first<Values>(key + d, dim - d), factor, load(total + d)));
      }
    }
  });
}

void score_units(const void* const* keys, Element type, int rows, int dim, const float* direction, float* out) {
  with_values(type, [&]<class Values>(Values) {
    for (int row = 0; row < rows; ++row) {
      const auto* key = chunk_row<Values>(keys, row, dim);
      Vec dot = zero();
      for (int d = 0; d < dim; d += kLanes) {
        dot = fma(load_first<Values>(key + d, dim - d), load_first<F32Values>(direction + d, dim - d), dot);
      }
      out[row] = -reduce_add(dot) * inverse_norm<Values>(key, dim);
    }
  });
}

void store_rotated(const void* x, Element from, const float* cos, const float* sin, int dim, void* out,
                   Element to) {
  with_values(from, [&]<class From>(From) {
    with_values(to, [&]<class To>(To) {
      rotate_row<From, To>(static_cast<const typename From::Type*>(x), cos, sin, dim,
                           static_cast<typename To::Type*>(out));
    });
  });
}

void exp_row(float* x, int64_t n, float max, float scale) {
  const Vec shift = splat(max);
  const Vec factor = splat(scale);
  for (int64_t i = 0; i < n; i += kLanes) {
    const int lanes = n - i < kLanes ? static_cast<int>(n - i) : kLanes;
    store_first<F32Values>(x + i, exp(mul(sub(load_first<F32Values>(x + i, lanes), shift), factor)), lanes);
  }
}

}  // namespace longhaul::LONGHAUL_ISA_NAMESPACE
