// A paged cache of one sequence and one layer, made for one kernel call from plain rows of keys and values.
#pragma once

#include <cstdint>
#include <vector>

#include "kernel_call.h"

namespace longhaul {

class KernelCache {
 public:
  // Appends the call's k and v [rows, kvHeads, headDim] at `positions` [rows], rotated when cos and sin are
  // given. Then head h holds its first lengths[h] rows, when `lengths` is given.
  explicit KernelCache(KernelCall& call);

  // This cache with `rows` rows in the step, in device memory.
  const CacheView* view(int32_t rows);
  const PageArrays& pages() const { return pages_; }
  int32_t kv_heads() const { return kv_heads_; }
  int64_t head_dim() const { return head_dim_; }
  int64_t capacity() const { return rows_; }
  int32_t shortest() const;

  // Outputs k and v (rows of all heads, head after head), positions and lengths.
  void output_rows();

 private:
  void append();
  void shorten();

  KernelCall& call_;
  int32_t kv_heads_ = 0;
  int64_t head_dim_ = 0;
  int64_t rows_ = 0;
  std::vector<int32_t> lengths_;
  PageArrays pages_;
  CacheView host_view_{};
  Tensor page_table_;
  Tensor length_;
};

}  // namespace longhaul
