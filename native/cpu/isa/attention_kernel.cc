// Softmax and weighted values of one chunk of keys, and the merge of such states.
#include "cpu/isa/attention_tile.h"

namespace longhaul::LONGHAUL_ISA_NAMESPACE {
namespace {

// Rows that share a loaded value, and vectors of values held at a time: 16 or 8 accumulators hide the latency
// of a multiply-add and leave registers for the values.
constexpr int kValueRows = 4;
#if defined(LONGHAUL_ISA_512)
constexpr int kValueVecs = 4;
#else
constexpr int kValueVecs = 2;
#endif

void pack_query(const void* q, Element type, int dim, bool pairs, float* out) {
  if (pairs) {
    memcpy(out, q, static_cast<size_t>(dim) * sizeof(uint16_t));
    return;
  }
  with_values(type, [&]<class Values>(Values) {
    const auto* from = static_cast<const typename Values::Type*>(q);
    for (int d = 0; d < dim; d += kLanes) store(out + d, load_first<Values>(from + d, dim - d));
  });
}

// sums[row][0, count) += weights[row][key] * values[key][d, ...) over keys [begin, end), keys in order.
// count = kVecs * kLanes, or less (kVecs = 1) at the end of a row.
template <class Values, int kRows, int kVecs>
LONGHAUL_INLINE void add_values(const float* weights, const void* const* values, int begin, int end, int dim,
                                int d, float* sums, int stride) {
  Vec sum[kRows][kVecs];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) sum[r][v] = load(sums + r * stride + v * kLanes);
  }
  for (int key = begin; key < end; ++key) {
    const auto* row = chunk_row<Values>(values, key, dim) + d;
    Vec value[kVecs];
    if constexpr (kVecs == 1) {
      value[0] = load_first<Values>(row, dim - d);
    } else {
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) value[v] = Values::load_all(row + v * kLanes);
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const Vec weight = splat(weights[r * kChunkKeys + key]);
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) sum[r][v] = fma(weight, value[v], sum[r][v]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) store(sums + r * stride + v * kLanes, sum[r][v]);
  }
}

template <class Values, int kRows>
void add_value_rows(const float* weights, const void* const* values, int begin, int end, int dim, float* sums) {
  const int stride = padded_dim(dim);
  int d = 0;
  for (; d + kValueVecs * kLanes <= dim; d += kValueVecs * kLanes) {
    add_values<Values, kRows, kValueVecs>(weights, values, begin, end, dim, d, sums + d, stride);
  }
  for (; d < dim; d += kLanes) {
    add_values<Values, kRows, 1>(weights, values, begin, end, dim, d, sums + d, stride);
  }
}

template <class Values>
void weigh_values(const ScoreTile& t, const void* const* values, float* sums) {
  const int stride = padded_dim(t.dim);
  int row = 0;
  while (row < t.rows && t.visible[row] == 0) ++row;
  while (row < t.rows) {
    const int rows = t.rows - row >= kValueRows ? kValueRows : 1;
    const float* weights = t.scores + row * kChunkKeys;
    float* out = sums + row * stride;
    memset(out, 0, static_cast<size_t>(rows * stride) * sizeof(float));
    // Keys that all of these rows see, then what later ones see more: a value beyond a row's own keys must not
    // even be multiplied by zero, it may be infinite.
    const int common = t.visible[row];
    if (rows == kValueRows) {
      add_value_rows<Values, kValueRows>(weights, values, 0, common, t.dim, out);
    } else {
      add_value_rows<Values, 1>(weights, values, 0, common, t.dim, out);
    }
    for (int r = 1; r < rows; ++r) {
      if (t.visible[row + r] > common) {
        add_value_rows<Values, 1>(weights + r * kChunkKeys, values, common, t.visible[row + r], t.dim,
                                  out + r * stride);
      }
    }
    row += rows;
  }
}

void attend_chunk(const ScoreTile& tile, const void* const* values, const SoftmaxRows& out) {
  score_tile(tile, values);
  for (int row = 0; row < tile.rows; ++row) {
    if (tile.visible[row] == 0) {
      out.max[row] = kMinusInfinity;
      out.sum[row] = 0;
    } else {
      softmax_row<true>(tile.scores + row * kChunkKeys, tile.visible[row], out.max + row, out.sum + row);
    }
  }
  with_values(tile.type, [&]<class Values>(Values) { weigh_values<Values>(tile, values, out.accumulated); });
}

void merge_rows(const SoftmaxRows& part, const SoftmaxRows& total, int rows, int dim) {
  const int stride = padded_dim(dim);
  for (int row = 0; row < rows; ++row) {
    if (part.sum[row] == 0) continue;
    const float largest = total.max[row] > part.max[row] ? total.max[row] : part.max[row];
    alignas(64) float lane[kLanes] = {total.max[row] - largest, part.max[row] - largest};
    store(lane, exp(load(lane)));
    const Vec old_weight = splat(lane[0]);
    const Vec new_weight = splat(lane[1]);
    total.max[row] = largest;
    total.sum[row] = total.sum[row] * lane[0] + part.sum[row] * lane[1];
    float* sums = total.accumulated + row * stride;
    const float* added = part.accumulated + row * stride;
    for (int d = 0; d < dim; d += kLanes) {
      store(sums + d, fma(load(sums + d), old_weight, mul(load(added + d), new_weight)));
    }
  }
}

void finish_row(const float* accumulated, float sum, int dim, void* out, Element type) {
  const Vec factor = splat(sum == 0 ? 0.0f : 1.0f / sum);
  with_values(type, [&]<class Values>(Values) {
    auto* to = static_cast<typename Values::Type*>(out);
    for (int d = 0; d < dim; d += kLanes)
      store_first<Values>(to + d, mul(load(accumulated + d), factor), dim - d);
  });
}

#if defined(LONGHAUL_ISA_avx512bf16)
constexpr bool kBf16Pairs = true;
#else
constexpr bool kBf16Pairs = false;
#endif

}  // namespace

extern const cpu::AttentionKernels attention_kernels;
const cpu::AttentionKernels attention_kernels = {
    .bf16_pairs = kBf16Pairs,
    .pack_query = pack_query,
    .attend_chunk = attend_chunk,
    .merge_rows = merge_rows,
    .finish_row = finish_row,
    .softmax_chunk = softmax_chunk,
    .reduce_max = reduce_max_chunk,
    .reduce_sum = reduce_sum_chunk,
    .sum_units = sum_units,
    .score_units = score_units,
    .store_rotated = store_rotated,
    .exp_row = exp_row,
};

}  // namespace longhaul::LONGHAUL_ISA_NAMESPACE
