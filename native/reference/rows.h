// Rows of tensors as doubles. The dtype is looked at once a row, so loops over values stay plain.
#pragma once

#include <cstdint>
#include <vector>

#include "core/ops.h"

namespace longhaul::reference {

// Reads / writes `count` values from element `offset` of `data` on. Integers have no business here.
void load(const void* data, DType dtype, int64_t offset, int64_t count, double* out);
void store(void* data, DType dtype, int64_t offset, int64_t count, const double* in);

// Where row (i), (i, j) or (i, j, k) of a tensor of rank 2, 3 or 4 begins, in elements.
inline int64_t row_at(const Tensor& t, int64_t i, int64_t j = 0, int64_t k = 0) {
  return i * t.stride[0] + (t.rank > 2 ? j * t.stride[1] : 0) + (t.rank > 3 ? k * t.stride[2] : 0);
}

inline int64_t row_length(const Tensor& t) {
  return t.shape[t.rank - 1];
}

inline void load_row(const Tensor& t, int64_t offset, std::vector<double>& out) {
  out.resize(static_cast<size_t>(row_length(t)));
  load(t.data, t.dtype, offset, row_length(t), out.data());
}

inline void store_row(const Tensor& t, int64_t offset, const std::vector<double>& in) {
  store(t.data, t.dtype, offset, row_length(t), in.data());
}

inline int32_t pages_of(int32_t rows) {
  return (rows + kPageRows - 1) / kPageRows;
}

// The row of the page arrays that holds row `row` of head `head`.
inline int64_t slot_of(const CacheView& view, int32_t head, int32_t row) {
  const int64_t page = view.page_table[static_cast<int64_t>(head) * view.max_pages + row / kPageRows];
  return page * kPageRows + row % kPageRows;
}

// Rows [0, rows) of one head, one behind the other.
std::vector<double> load_head(const Tensor& pages, const CacheView& view, int32_t head, int32_t rows);

// A softmax over scores with this lse, as AttentionArgs::state has it: the same whatever m was taken out, so m
// is the lse itself in base 2, rounded, and the sum makes up for the rounding.
void store_state(const Tensor& state, int64_t row, int64_t head, double lse);
// And back.
double load_state(const Tensor& state, int64_t row, int64_t head);

double dot(const double* a, const double* b, int64_t count);

// Rotates the pairs (i, i + dim / 2) of x.
void rotate(std::vector<double>& x, const Tensor& cos, const Tensor& sin, int64_t row);

}  // namespace longhaul::reference
