// Softmax and weighted values of one chunk of keys, and the merge of such states.
#include "cpu/isa/attention_tile.h"

namespace longhaul::LONGHAUL_ISA_NAMESPACE {
namespace {

void pack_query(const void* q, Element type, int dim, QueryForm form, int row, float* queries) {
  if (form == QueryForm::kQuads) {
    constexpr size_t kPart = 16 * sizeof(uint16_t);
    const auto* from = static_cast<const char*>(q);
    char* out = reinterpret_cast<char*>(queries + row / kQuadRows * quad_floats(dim)) + row % kQuadRows * kPart;
    for (int d = 0; d < dim; d += 16, from += kPart, out += kQuadRows * kPart) memcpy(out, from, kPart);
    return;
  }
  float* out = queries + row * padded_dim(dim);
  if (form == QueryForm::kPairs) {
    memcpy(out, q, static_cast<size_t>(dim) * sizeof(uint16_t));
    return;
  }
  with_values(type, [&]<class Values>(Values) {
    const auto* from = static_cast<const typename Values::Type*>(q);
    for (int d = 0; d < dim; d += kLanes) store(out + d, load_first<Values>(from + d, dim - d));
  });
}

void attend_chunk(const ScoreTile& tile, const ValueTile& values, const SoftmaxRows& out) {
  score_tile(tile);
  weigh_values(tile, values, 0, tile.rows, true, out);
}

// Two maxima's largest, and what states relative to them are multiplied by.
struct MergeWeights {
  Vec largest, of_total, of_part;
};

MergeWeights merge_weights(Vec total, Vec part) {
  const Vec largest = max(total, part);
  return {largest, exp2_nonpositive(sub(total, largest)), exp2_nonpositive(sub(part, largest))};
}

void merge_rows(const SoftmaxRows& part, const SoftmaxRows& total, int rows, int dim) {
  const int stride = padded_dim(dim);
  for (int first = 0; first < rows; first += kLanes) {
    const int count = rows - first < kLanes ? rows - first : kLanes;
    const MergeWeights weights = merge_weights(load_first<F32Values>(total.max + first, count),
                                               load_first<F32Values>(part.max + first, count));
    alignas(64) float largest[kLanes], old_weight[kLanes], new_weight[kLanes];
    store(largest, weights.largest);
    store(old_weight, weights.of_total);
    store(new_weight, weights.of_part);
    for (int i = 0; i < count; ++i) {
      const int row = first + i;
      if (part.sum[row] == 0) continue;
      total.max[row] = largest[i];
      total.sum[row] = total.sum[row] * old_weight[i] + part.sum[row] * new_weight[i];
      float* sums = total.accumulated + row * stride;
      const float* added = part.accumulated + row * stride;
      const Vec of_total = splat(old_weight[i]);
      const Vec of_part = splat(new_weight[i]);
      for (int d = 0; d < dim; d += kLanes) {
        store(sums + d, fma(load(sums + d), of_total, mul(load(added + d), of_part)));
      }
    }
  }
}

void merge_chunk(const ScoreTile& tile, const ValueTile& values, const SoftmaxRows& part,
                 const SoftmaxRows& total) {
  score_tile(tile);
  for (int row = 0; row < tile.rows; row += kMergeRows) {
    const int rows = tile.rows - row < kMergeRows ? tile.rows - row : kMergeRows;
    if (tile.visible[row + rows - 1] == 0) continue;
    weigh_values(tile, values, row, rows, row == 0, part);
    merge_rows(part, {total.max + row, total.sum + row, total.accumulated + row * padded_dim(tile.dim)}, rows,
               tile.dim);
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
    .merge_chunk = merge_chunk,
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
