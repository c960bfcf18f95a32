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

// The values of a page, with as much of another page asked for, evenly spread.
template <class Values>
struct PageReader {
  using Type = typename Values::Type;
  const Type* page;
  const Type* ahead;
  int dim;

  const Type* row(int i) const {
    constexpr int kLine = 64 / sizeof(Type);
    for (int d = 0; d < dim; d += kLine) __builtin_prefetch(ahead + i * dim + d);
    return page + i * dim;
  }
};

// Calls body(d, load) for every vector of a row; load takes a row's address from d on. The last vector may be a
// part, which costs so much that full ones must not go that way.
template <class Values, class Body>
LONGHAUL_INLINE void for_each_vector(int dim, Body body) {
  using Type = typename Values::Type;
  int d = 0;
  for (; d + kLanes <= dim; d += kLanes) {
    body(
        d, [](const Type* p) __attribute__((always_inline)) { return Values::load_all(p); });
  }
  if (d < dim)
    body(
        d, [=](const Type* p) __attribute__((always_inline)) { return load_first<Values>(p, dim - d); });
}

// factor[i] = 1 / |k_i| of squares[i] = |k_i|^2, 0 for a zero key, for the rows of a page.
LONGHAUL_INLINE void invert_norms(const float* squares, float* factor) {
  for (int i = 0; i < kKernelPageRows; i += kLanes)
    store(factor + i, div(splat(1.0f), sqrt(load(squares + i))));
  for (int i = 0; i < kKernelPageRows; ++i) factor[i] = squares[i] == 0 ? 0.0f : factor[i];
}

// Calls body(first row, rows, reader) for every page of the chunk's first `rows` rows.
template <class Values, class Body>
LONGHAUL_INLINE void for_each_page(const void* const* keys, const void* const* fetch, int rows, int dim,
                                   Body body) {
  for (int first = 0; first < rows; first += kKernelPageRows) {
    const int count = rows - first < kKernelPageRows ? rows - first : kKernelPageRows;
    body(first, count,
         PageReader<Values>{chunk_row<Values>(keys, first, dim), chunk_row<Values>(fetch, first, dim), dim});
  }
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

void sum_units(const void* const* keys, const void* const* fetch, Element type, int rows, int dim,
               float* total) {
  memset(total, 0, static_cast<size_t>(padded_dim(dim)) * sizeof(float));
  with_values(type, [&]<class Values>(Values) {
    for_each_page<Values>(keys, fetch, rows, dim, [&](int, int count, const PageReader<Values>& page) {
      alignas(64) float squares[kKernelPageRows] = {};
      alignas(64) float factor[kKernelPageRows];
      for (int i = 0; i < count; ++i) {
        const auto* key = page.row(i);
        Vec sum = zero();
        for_each_vector<Values>(
            dim, [&](int d, auto load_row) __attribute__((always_inline)) {
              const Vec k = load_row(key + d);
              sum = fma(k, k, sum);
            });
        squares[i] = reduce_add(sum);
      }
      invert_norms(squares, factor);
      for_each_vector<Values>(
          dim, [&](int d, auto load_row) __attribute__((always_inline)) {
            Vec sum = load(total + d);
            for (int i = 0; i < count; ++i) sum = fma(load_row(page.page + i * dim + d), splat(factor[i]), sum);
            store(total + d, sum);
          });
    });
  });
}

void score_units(const void* const* keys, const void* const* fetch, Element type, int rows, int dim,
                 const float* direction, float* out) {
  with_values(type, [&]<class Values>(Values) {
    for_each_page<Values>(keys, fetch, rows, dim, [&](int first, int count, const PageReader<Values>& page) {
      alignas(64) float squares[kKernelPageRows] = {};
      alignas(64) float factor[kKernelPageRows];
      float dots[kKernelPageRows];
      for (int i = 0; i < count; ++i) {
        const auto* key = page.row(i);
        Vec sum = zero();
        Vec dot = zero();
        for_each_vector<Values>(
            dim, [&](int d, auto load_row) __attribute__((always_inline)) {
              const Vec k = load_row(key + d);
              sum = fma(k, k, sum);
              dot = fma(k, load(direction + d), dot);
            });
        squares[i] = reduce_add(sum);
        dots[i] = reduce_add(dot);
      }
      invert_norms(squares, factor);
      for (int i = 0; i < count; ++i) out[first + i] = -dots[i] * factor[i];
    });
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
