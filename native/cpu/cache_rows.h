// Where the rows of a paged cache lie, for the CPU ops that walk it.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/ops.h"
#include "cpu/isa/attention_kernels.h"

namespace longhaul::cpu {

static_assert(kKernelPageRows == kPageRows);

inline int32_t pages_of(int32_t rows) {
  return (rows + kPageRows - 1) / kPageRows;
}

inline int32_t chunks_of(int32_t rows) {
  return (rows + kChunkKeys - 1) / kChunkKeys;
}

inline const int32_t* page_table_of(const CacheView& view, int32_t head) {
  return view.page_table + static_cast<int64_t>(head) * view.max_pages;
}

// Bytes of one page of keys or values.
inline int64_t page_bytes(const Tensor& pages) {
  return pages.stride[0] * static_cast<int64_t>(size_of(pages.dtype));
}

inline char* page_at(const Tensor& pages, int32_t page) {
  return pages.as<char>() + page * page_bytes(pages);
}

// Address of element (i, j, 0) of a tensor of rank 3, or (i, 0) of rank 2.
inline char* row_at(const Tensor& t, int64_t i, int64_t j = 0) {
  return t.as<char>() +
         (i * t.stride[0] + j * (t.rank > 2 ? t.stride[1] : 0)) * static_cast<int64_t>(size_of(t.dtype));
}

// `count` pages of a head that holds `rows` rows, from the one numbered `first` on. Behind the last page it is
// repeated: kernels may read there, and ignore what they read.
inline void pages_from(const Tensor& pages, const CacheView& view, int32_t head, int32_t first, int32_t rows,
                       int32_t count, const void** out) {
  const int32_t* table = page_table_of(view, head);
  const int32_t last = pages_of(rows) - 1;
  for (int32_t i = 0; i < count; ++i) out[i] = page_at(pages, table[std::min(first + i, last)]);
}

// Pages between a page and one that starts `bytes` behind its start.
inline int32_t pages_ahead(const Tensor& pages, int64_t bytes) {
  return static_cast<int32_t>(std::clamp<int64_t>(bytes / page_bytes(pages), 1, kChunkPages));
}

}  // namespace longhaul::cpu
