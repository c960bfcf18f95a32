// Rows and pages of one cache as kernels see them.
#pragma once

#include "core/ops.h"
#include "cuda/failure.h"
#include "cuda/prefix_sum.cuh"

namespace longhaul::cuda {

__device__ __forceinline__ int32_t pages_of(int32_t rows) {
  return (rows + kPageRows - 1) / kPageRows;
}

__device__ __forceinline__ int32_t* page_table_of(const CacheView& view, int head) {
  return view.page_table + int64_t{head} * view.max_pages;
}

// The row of the page arrays that holds row `row` of a head.
__device__ __forceinline__ int64_t slot_of(const int32_t* page_table, int32_t row) {
  return int64_t{page_table[row / kPageRows]} * kPageRows + row % kPageRows;
}

// Keeps the lowest word of all failures (failure.h).
__device__ __forceinline__ void report_failure(unsigned long long* failure, uint64_t word) {
  atomicMin(failure, static_cast<unsigned long long>(word));
}

// Numbers the pages that change hands, head by head: calls move(head, i, order) for i < count(head), where
// `order` counts on over the heads. One block; each warp sees all counts and moves the pages of some heads.
// Returns how many pages there are.
template <class Count, class Move>
__device__ __forceinline__ int32_t for_each_page(int kv_heads, Count count, Move move) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  const int warps = static_cast<int>(blockDim.x) / kWarpThreads;
  int32_t before = 0;
  for (int tile = 0; tile < kv_heads; tile += kWarpThreads) {
    const int32_t pages = tile + lane < kv_heads ? count(tile + lane) : 0;
    const int32_t inclusive = warp_inclusive_sum(pages);
    const int heads = min(kWarpThreads, kv_heads - tile);
    for (int h = 0; h < heads; ++h) {
      const int32_t head_pages = __shfl_sync(kWholeWarp, pages, h);
      const int32_t first = before + __shfl_sync(kWholeWarp, inclusive, h) - head_pages;
      if (h % warps != warp) continue;
#pragma unroll 1
      for (int32_t i = lane; i < head_pages; i += kWarpThreads) move(tile + h, i, first + i);
    }
    before += __shfl_sync(kWholeWarp, inclusive, kWarpThreads - 1);
  }
  return before;
}

// Shortens every head to length_of(head) and gives the pages behind back, the lowest index of the lowest head
// first. One block for one sequence.
template <class LengthOf>
__device__ __forceinline__ void shorten(const CacheView& view, int kv_heads, LengthOf length_of) {
  const int32_t held = view.free_count[0];
  const int32_t released = for_each_page(
      kv_heads, [&](int head) { return pages_of(view.length[head]) - pages_of(length_of(head)); },
      [&](int head, int32_t i, int32_t order) {
        view.free_pages[held + order] = page_table_of(view, head)[pages_of(length_of(head)) + i];
      });
  __syncthreads();  // every warp has read the lengths and the stack's height
  for (int head = static_cast<int>(threadIdx.x); head < kv_heads; head += static_cast<int>(blockDim.x)) {
    view.length[head] = length_of(head);
  }
  if (threadIdx.x == 0) view.free_count[0] = held + released;
}

}  // namespace longhaul::cuda
