// Which rows of the step a block of threads works on, and how much of the cache they see.
#pragma once

#include "cuda/attention_params.h"
#include "cuda/device.cuh"

namespace longhaul::cuda {

// Some packed rows of one sequence and KV head: packed row i is query i / group and head i % group of the
// group, so that all heads of a group share each key that is read.
struct QueryTile {
  int32_t row_begin = 0;  // the sequence's first row in the step
  int32_t first = 0;      // the tile's first packed row
  int32_t rows = 0;       // 0: a surplus block
  int32_t head = 0;       // KV head
  int32_t group = 0;
  int32_t length = 0;              // rows held by the head
  int32_t reach = 0;               // rows that the sequence's first query of the step sees
  const int32_t* pages = nullptr;  // the head's row of the page table

  // Row of the step and head of the tile's row.
  __device__ __forceinline__ int32_t step_row(int32_t row) const { return row_begin + (first + row) / group; }
  __device__ __forceinline__ int32_t step_head(int32_t row) const {
    return head * group + (first + row) % group;
  }
  // Cache rows that the tile's row sees: all, when the queries are not in the cache.
  __device__ __forceinline__ int32_t visible(int32_t row) const {
    return min(max(reach + (first + row) / group, 0), length);
  }
};

__device__ __forceinline__ QueryTile query_tile_of(const CacheView& view, int32_t group, int32_t head,
                                                   int32_t first, int32_t tile_rows) {
  QueryTile tile;
  tile.row_begin = view.row_begin;
  tile.first = first;
  tile.rows = max(min(view.row_count * group - first, tile_rows), 0);
  tile.head = head;
  tile.group = group;
  tile.length = view.length[head];
  tile.reach = tile.length - view.row_count + 1 + view.ahead;
  tile.pages = view.page_table + static_cast<int64_t>(head) * view.max_pages;
  return tile;
}

// Tile `index` over all sequences; in each, the tile that sees the most comes first, so that the short ones
// fill the end.
__device__ __forceinline__ QueryTile find_query_tile(const AttentionParams& p, int32_t head, int32_t index,
                                                     int32_t tile_rows) {
  for (int32_t s = 0; s < p.sequences; ++s) {
    const CacheView& view = p.views[s];
    const int32_t tiles = (view.row_count * p.group + tile_rows - 1) / tile_rows;
    if (index < tiles) return query_tile_of(view, p.group, head, (tiles - 1 - index) * tile_rows, tile_rows);
    index -= tiles;
  }
  return {};
}

// Element `head`, `row` of a row tensor.
template <class T>
__device__ __forceinline__ T* at(const RowTensor& t, int32_t row, int32_t head) {
  return static_cast<T*>(t.data) + row * t.row_stride + head * t.head_stride;
}

__device__ __forceinline__ void store(const RowTensor& t, int32_t row, int32_t head, int64_t column, float x) {
  if (t.bf16) {
    at<__nv_bfloat16>(t, row, head)[column] = __float2bfloat16_rn(x);
  } else {
    at<float>(t, row, head)[column] = x;
  }
}

// A row's softmax, for whoever merges it with others.
__device__ __forceinline__ void store_state(const AttentionParams& p, int64_t slot, float max, float sum) {
  if (p.state == nullptr) return;
  p.state[2 * slot] = max;
  p.state[2 * slot + 1] = sum;
}

// Two neighbouring numbers to a row of f32 or bf16, whatever its alignment.
__device__ __forceinline__ void store_pair(const RowTensor& t, int32_t row, int32_t head, int32_t column,
                                           float x, float y) {
  if (t.bf16) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
    __nv_bfloat16* to = at<__nv_bfloat16>(t, row, head) + column;
    if (t.whole_chunks) {
      *static_cast<__nv_bfloat162*>(static_cast<void*>(to)) = pair;
    } else {
      to[0] = pair.x;
      to[1] = pair.y;
    }
  } else {
    float* to = at<float>(t, row, head) + column;
    to[0] = x;
    to[1] = y;
  }
}

}  // namespace longhaul::cuda
