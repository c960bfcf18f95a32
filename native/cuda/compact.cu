// compact: survivors move to the front in place. A row never moves back, so reading a run of targets' sources
// before writing any of them loses nothing; runs follow each other in one block, and blocks share a head by
// columns, which do not depend on each other.
#include <algorithm>

#include "cuda/cache_rows.cuh"
#include "cuda/element.cuh"
#include "cuda/ops.h"
#include "cuda/stream.h"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kHeld = 8;  // pieces that a thread holds while nobody writes: what is under way hides the latency
constexpr int64_t kWidestSlice = 128;    // bytes of a row that one block moves: a line,
constexpr int64_t kNarrowestSlice = 32;  // or a sector, where there are too few blocks for the GPU

struct CompactParams {
  const CacheView* view;
  char* k;
  char* v;
  char* positions;
  const int32_t* kept;
  const int32_t* kept_count;
  int64_t kept_stride;
  int row_bytes;
  int slice_bytes;
  int slices;  // of a row
  int kv_heads;
};

// The first i with kept[i] != i, or count. All threads of the block search together.
__device__ __forceinline__ int first_moved(const int32_t* kept, int count) {
  int begin = 0;
  int size = count;
  while (size > 0) {
    // kept[i] - i never falls: where the last of a stretch is in place all of it is.
    const int step = (size + kThreads - 1) / kThreads;
    const int last = begin + (static_cast<int>(threadIdx.x) + 1) * step - 1;
    const int stretches = __syncthreads_count(last < begin + size && kept[last] == last);
    const int end = begin + size;
    begin += stretches * step;
    size = min(step - 1, end - begin);
  }
  return begin;
}

template <int kBytes>
struct Piece {
  alignas(kBytes) char bytes[kBytes];
};

// Moves `width` bytes of every row from target `begin` on; `base` is where they begin in the first row.
template <int kBytes>
__device__ __forceinline__ void move_columns(char* base, int64_t row_bytes, int width, const int32_t* table,
                                             const int32_t* kept, int begin, int count) {
  const int pieces = width / kBytes;
  const int rows = kThreads / pieces;  // that the block moves with one piece a thread
  const int row = static_cast<int>(threadIdx.x) / pieces;
  base += (static_cast<int>(threadIdx.x) - row * pieces) * kBytes;
  for (int run = begin; run < count; run += rows * kHeld) {
    Piece<kBytes> held[kHeld];
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int target = run + i * rows + row;
      if (row < rows && target < count) {
        copy_bytes<kBytes>(held[i].bytes, base + slot_of(table, kept[target]) * row_bytes);
      }
    }
    __syncthreads();  // sources of this run are read; those of later runs lie behind its targets
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int target = run + i * rows + row;
      if (row < rows && target < count) {
        copy_bytes<kBytes>(base + slot_of(table, target) * row_bytes, held[i].bytes);
      }
    }
  }
}

// Grid (slices of k, slices of v, positions, pages; heads).
template <int kBytes>
__global__ void __launch_bounds__(kThreads, 1) compact_heads(const CompactParams p) {
  const CacheView view = *p.view;
  const int job = static_cast<int>(blockIdx.x);
  if (job == 2 * p.slices + 1) {
    if (blockIdx.y == 0) shorten(view, p.kv_heads, [&](int head) { return p.kept_count[head]; });
    return;
  }
  const int head = static_cast<int>(blockIdx.y);
  const int32_t* kept = p.kept + head * p.kept_stride;
  const int32_t* table = page_table_of(view, head);
  const int count = p.kept_count[head];
  const int begin = first_moved(kept, count);
  if (job == 2 * p.slices) {
    move_columns<4>(p.positions, sizeof(int32_t), sizeof(int32_t), table, kept, begin, count);
    return;
  }
  const int offset = (job < p.slices ? job : job - p.slices) * p.slice_bytes;
  char* base = (job < p.slices ? p.k : p.v) + offset;
  move_columns<kBytes>(base, p.row_bytes, min(p.slice_bytes, p.row_bytes - offset), table, kept, begin, count);
}

}  // namespace

Status compact(Stream& stream, const CompactArgs& a) {
  CudaStream& cuda = cuda_stream(stream);
  const int64_t row_bytes = a.pages.k.shape[2] * static_cast<int64_t>(size_of(a.pages.k.dtype));
  int64_t slice_bytes = kWidestSlice;
  const auto blocks = [&] { return 2 * a.kv_heads * divide_up(row_bytes, slice_bytes); };
  while (slice_bytes > kNarrowestSlice && blocks() < cuda.traits().multiprocessors) slice_bytes /= 2;
  const int64_t slices = divide_up(row_bytes, slice_bytes);
  const CompactParams params{a.view,
                             a.pages.k.as<char>(),
                             a.pages.v.as<char>(),
                             a.pages.positions.as<char>(),
                             a.kept.as<int32_t>(),
                             a.kept_count.as<int32_t>(),
                             a.kept.stride[0],
                             static_cast<int>(row_bytes),
                             static_cast<int>(slice_bytes),
                             static_cast<int>(slices),
                             a.kv_heads};
  const auto elements = 16 / static_cast<int64_t>(size_of(a.pages.k.dtype));
  const bool aligned =
      row_bytes % 16 == 0 && rows_aligned(a.pages.k, elements) && rows_aligned(a.pages.v, elements);
  const auto kernel = aligned ? compact_heads<16> : compact_heads<4>;  // head dims are even
  return cuda.launched(
      launch(kernel, grid_of(2 * slices + 2, a.kv_heads), dim3(kThreads), 0, cuda.handle(), params), "compact");
}

}  // namespace longhaul::cuda
