// copy_rows: as append, whose rows come from another cache. A warp fills a page of a head.
#include <algorithm>

#include "cuda/element.cuh"
#include "cuda/ops.h"
#include "cuda/page_reservation.cuh"
#include "cuda/stream.h"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarpThreads;
constexpr int64_t kMostBlocks = 256;  // of a head: each goes on to further pages

struct CopyParams {
  const CacheView* source;
  const CacheView* target;
  char* k;
  char* v;
  int32_t* positions;
  const int32_t* kept;
  const int32_t* kept_count;
  unsigned long long* failure;
  int64_t kept_stride;
  int row_bytes;
  int kv_heads;
};

// Fills page `index` of the target's head.
template <int kBytes>
__device__ __forceinline__ void write_page(const CopyParams& p, const CacheView& source,
                                           const CacheView& target, int head, int32_t index,
                                           const Reservation& r) {
  const int32_t length = target.length[head];
  const int32_t held_pages = pages_of(length);
  const int32_t page = index < held_pages
                           ? page_table_of(target, head)[index]
                           : target.free_pages[target.free_count[0] - 1 - (r.before + index - held_pages)];
  const int32_t begin = max(length, index * kPageRows);
  const int rows = min(length + p.kept_count[head], (index + 1) * kPageRows) - begin;
  const int64_t slot = int64_t{page} * kPageRows + begin % kPageRows;
  const int32_t* kept = p.kept + head * p.kept_stride + (begin - length);
  const int32_t* table = page_table_of(source, head);
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int pieces = p.row_bytes / kBytes;
  for (int item = lane; item < rows * pieces; item += kWarpThreads) {
    const int row = item / pieces;
    const int64_t column = (item - row * pieces) * kBytes;
    const int64_t from = slot_of(table, kept[row]) * p.row_bytes + column;
    const int64_t to = (slot + row) * p.row_bytes + column;
    copy_bytes<kBytes>(p.k + to, p.k + from);
    copy_bytes<kBytes>(p.v + to, p.v + from);
  }
  if (lane < rows) p.positions[slot + lane] = p.positions[slot_of(table, kept[lane])];
}

// Grid (pages, heads).
template <int kBytes>
__global__ void __launch_bounds__(kThreads, 1) copy_pages(const CopyParams p) {
  const CacheView source = *p.source;
  const CacheView target = *p.target;
  const auto added = [&](int head) { return p.kept_count[head]; };
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  const int head = static_cast<int>(blockIdx.y);
  const Reservation r = reserve(target, p.kv_heads, head, added);
  if (!r.granted) return;
  const int32_t length = target.length[head];
  const int32_t pages = pages_of(length + added(head));
  const int32_t step = static_cast<int32_t>(gridDim.x) * kWarps;
  for (int32_t index = length / kPageRows + static_cast<int32_t>(blockIdx.x) * kWarps + warp; index < pages;
       index += step) {
    write_page<kBytes>(p, source, target, head, index, r);
  }
}

__global__ void __launch_bounds__(kThreads, 1) copy_take_pages(const CopyParams p) {
  take_pages(
      *p.target, p.kv_heads, [&](int head) { return p.kept_count[head]; },
      [&](const Reservation& r, int32_t held) {
        const FailureKind kind = r.table_full ? FailureKind::kCopyTableFull : FailureKind::kCopyPagesExhausted;
        report_failure(p.failure, failure_word(kind, 0, r.needed, held));
      });
}

}  // namespace

Status copy_rows(Stream& stream, const CopyRowsArgs& a) {
  CudaStream& cuda = cuda_stream(stream);
  const int64_t row_bytes = a.pages.k.shape[2] * static_cast<int64_t>(size_of(a.pages.k.dtype));
  const CopyParams params{a.source,
                          a.target,
                          a.pages.k.as<char>(),
                          a.pages.v.as<char>(),
                          a.pages.positions.as<int32_t>(),
                          a.kept.as<int32_t>(),
                          a.kept_count.as<int32_t>(),
                          cuda.failure(),
                          a.kept.stride[0],
                          static_cast<int>(row_bytes),
                          a.kv_heads};
  const auto elements = 16 / static_cast<int64_t>(size_of(a.pages.k.dtype));
  const bool aligned =
      row_bytes % 16 == 0 && rows_aligned(a.pages.k, elements) && rows_aligned(a.pages.v, elements);
  const auto kernel = aligned ? copy_pages<16> : copy_pages<4>;  // head dims are even
  // The rows may begin inside a page.
  const int64_t blocks = std::min(divide_up(divide_up(a.kept.shape[1], kPageRows) + 1, kWarps), kMostBlocks);
  LONGHAUL_TRY(cuda.launched(
      launch(kernel, grid_of(blocks, a.kv_heads), dim3(kThreads), 0, cuda.handle(), params), "copy_rows"));
  return cuda.launched(launch(copy_take_pages, dim3(1), dim3(kThreads), 0, cuda.handle(), params), "copy_rows");
}

}  // namespace longhaul::cuda
