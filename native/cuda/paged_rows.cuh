// Rows of one KV head, fetched page by page into shared memory.
#pragma once

#include "cuda/attention_params.h"
#include "cuda/ptx.cuh"

namespace longhaul::cuda {

struct HeadRows {
  const int32_t* pages = nullptr;  // ids
  const unsigned char* data = nullptr;
  int32_t length = 0;  // rows from here on are read as zeros
  int32_t row_bytes = 0;
  bool whole_chunks = false;

  __device__ __forceinline__ HeadRows(const Pages& from, const int32_t* ids, int32_t rows)
      : pages(ids),
        data(static_cast<const unsigned char*>(from.data)),
        length(rows),
        row_bytes(from.row_bytes),
        whole_chunks(from.whole_chunks) {}

  // Where the kernel is for rows of this size in whole chunks, the compiler may know.
  __device__ __forceinline__ void assume_whole(int32_t bytes) {
    row_bytes = bytes;
    whole_chunks = true;
  }

  // The page of rows [first, first + kPageRows); any page when there are no such rows.
  __device__ __forceinline__ const unsigned char* page(int32_t first) const {
    const int32_t id = first < length ? pages[first / kPageRows] : 0;
    return data + static_cast<int64_t>(id) * kPageRows * row_bytes;
  }
};

// Starts copies of the page's rows to rows [to, to + kPageRows) of the tile: Tile::kChunks chunks of 16 bytes a
// row, zeros where the row ends and in rows that are not held. `first` is the page's first row in the cache.
// For kThreads threads.
template <int kThreads, class Tile>
__device__ __forceinline__ void fetch_page(Tile& tile, int32_t to, const HeadRows& rows,
                                           const unsigned char* page, int32_t first, int thread) {
  constexpr int kAtOnce = kThreads / Tile::kChunks;
  static_assert(kThreads % Tile::kChunks == 0 && kPageRows % kAtOnce == 0);
  const int chunk = thread % Tile::kChunks;
  const int part = thread / Tile::kChunks;
  if (rows.whole_chunks) {
    const bool inside = chunk * 16 < rows.row_bytes;
#pragma unroll
    for (int i = 0; i < kPageRows; i += kAtOnce) {
      const int row = i + part;
      const bool valid = inside && first + row < rows.length;
      ptx::cp_async16(tile.at(to + row, chunk), valid ? page + row * rows.row_bytes + chunk * 16 : rows.data,
                      valid);
    }
  } else {
#pragma unroll 1
    for (int i = 0; i < kPageRows; i += kAtOnce) {
      const int row = i + part;
#pragma unroll
      for (int byte = 0; byte < 16; byte += 4) {
        const bool valid = chunk * 16 + byte < rows.row_bytes && first + row < rows.length;
        ptx::cp_async4(tile.at(to + row, chunk) + byte,
                       valid ? page + row * rows.row_bytes + chunk * 16 + byte : rows.data, valid);
      }
    }
  }
}

// The same for rows [first, first + kRows); `first` is a multiple of kPageRows.
template <int kRows, int kThreads, class Tile>
__device__ __forceinline__ void fetch_rows(Tile& tile, const HeadRows& rows, int32_t first, int thread) {
#pragma unroll
  for (int row = 0; row < kRows; row += kPageRows) {
    fetch_page<kThreads>(tile, row, rows, rows.page(first + row), first + row, thread);
  }
}

}  // namespace longhaul::cuda
