// Pages for rows that go behind those of a sequence: they are written while still on the stack, and taken
// afterwards, so that blocks in any order see one and the same state.
#pragma once

#include "cuda/cache_rows.cuh"

namespace longhaul::cuda {

// What the new rows of a sequence need. The same in every warp that asks.
struct Reservation {
  int32_t before;  // pages for the heads in front of the one asked for
  int32_t needed;  // for all heads
  bool table_full;
  bool granted;
};

// Where added(head) more rows need pages.
template <class Added>
__device__ __forceinline__ int32_t new_pages(const CacheView& view, int head, Added added) {
  return pages_of(view.length[head] + added(head)) - pages_of(view.length[head]);
}

// By a whole warp.
template <class Added>
__device__ __forceinline__ Reservation reserve(const CacheView& view, int kv_heads, int head, Added added) {
  Reservation r{0, 0, false, false};
  for (int h = static_cast<int>(threadIdx.x) % kWarpThreads; h < kv_heads; h += kWarpThreads) {
    const int32_t pages = new_pages(view, h, added);
    r.needed += pages;
    if (h < head) r.before += pages;
    if (pages_of(view.length[h] + added(h)) > view.max_pages) r.table_full = true;
  }
  r.needed = warp_sum(r.needed);
  r.before = warp_sum(r.before);
  r.table_full = __any_sync(kWholeWarp, r.table_full) != 0;
  r.granted = !r.table_full && r.needed <= view.free_count[0];
  return r;
}

// Makes the reservation true: pages move from the stack to the tables, lengths grow. One block; when it is not
// granted, one thread calls refused(reservation, pages on the stack) and nothing changes.
template <class Added, class Refused>
__device__ __forceinline__ void take_pages(const CacheView& view, int kv_heads, Added added, Refused refused) {
  const Reservation r = reserve(view, kv_heads, 0, added);
  const int32_t held = view.free_count[0];
  if (!r.granted) {
    if (threadIdx.x == 0) refused(r, held);
    return;
  }
  for_each_page(
      kv_heads, [&](int head) { return new_pages(view, head, added); },
      [&](int head, int32_t i, int32_t order) {
        page_table_of(view, head)[pages_of(view.length[head]) + i] = view.free_pages[held - 1 - order];
      });
  __syncthreads();  // every warp has read the lengths and the stack's height
  for (int head = static_cast<int>(threadIdx.x); head < kv_heads; head += static_cast<int>(blockDim.x)) {
    view.length[head] += added(head);
  }
  if (threadIdx.x == 0) {
    view.free_count[0] = held - r.needed;
    view.free_count[1] = min(view.free_count[1], held - r.needed);
  }
}

}  // namespace longhaul::cuda
