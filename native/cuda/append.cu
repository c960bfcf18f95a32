// append: rows go to pages that are still on the stack while they are written, and the pages are taken
// afterwards. So blocks that run in any order see one and the same state, and a sequence without enough pages
// is left as it was.
#include <algorithm>

#include "cuda/cache_rows.cuh"
#include "cuda/element.cuh"
#include "cuda/ops.h"
#include "cuda/page_reservation.cuh"
#include "cuda/rotation.cuh"
#include "cuda/stream.h"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarpThreads;
// A sequence of so few rows is written by one block, which takes the pages too: a decode step launches one
// kernel.
constexpr int64_t kOneBlockRows = 4;

template <class In, class Kv>
struct AppendParams {
  const CacheView* views;
  const In* k;
  const void* v;
  const int32_t* positions;
  const float* cos;  // null: keys stay as they are
  const float* sin;
  Kv* k_pages;
  Kv* v_pages;
  int32_t* position_pages;
  unsigned long long* failure;
  int64_t k_stride, k_head_stride;
  int64_t v_stride, v_head_stride;
  int kv_heads;
  int half;  // of the head dim
  bool v_is_f32;
  bool takes_pages;  // the block does all of its sequence
};

// One warp writes the new rows of one page of one head.
template <class In, class Kv, int kWidth>
__device__ __forceinline__ void write_page(const AppendParams<In, Kv>& p, const CacheView& view, int head,
                                           int32_t index, const Reservation& r) {
  const int32_t length = view.length[head];
  const int32_t held_pages = pages_of(length);
  const int32_t page = index < held_pages
                           ? page_table_of(view, head)[index]
                           : view.free_pages[view.free_count[0] - 1 - (r.before + index - held_pages)];
  const int32_t begin = max(length, index * kPageRows);
  const int rows = min(length + view.row_count, (index + 1) * kPageRows) - begin;
  const int64_t from = int64_t{view.row_begin} + (begin - length);
  const int64_t slot = int64_t{page} * kPageRows + begin % kPageRows;
  const int dim = 2 * p.half;
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;

  const int pairs = p.half / kWidth;
  for (int item = lane; item < rows * pairs; item += kWarpThreads) {
    const int row = item / pairs;
    const int column = (item - row * pairs) * kWidth;
    const In* low_at = p.k + (from + row) * p.k_stride + head * p.k_head_stride + column;
    Kv* to = p.k_pages + (slot + row) * dim + column;
    float low[kWidth];
    float high[kWidth];
    load_floats(low_at, low);
    load_floats(low_at + p.half, high);
    if (p.cos != nullptr) {
      const int64_t angles = (from + row) * p.half + column;
      rotate(low, high, p.cos + angles, p.sin + angles);
    }
    store_floats(to, low);
    store_floats(to + p.half, high);
  }
  const int pieces = dim / kWidth;
  for (int item = lane; item < rows * pieces; item += kWarpThreads) {
    const int row = item / pieces;
    const int column = (item - row * pieces) * kWidth;
    float values[kWidth];
    load_activations(p.v, p.v_is_f32, (from + row) * p.v_stride + head * p.v_head_stride + column, values);
    store_floats(p.v_pages + (slot + row) * dim + column, values);
  }
  if (lane < rows) p.position_pages[slot + lane] = p.positions[from + lane];
}

// One block a sequence.
__device__ __forceinline__ void take_step_pages(const CacheView& view, int kv_heads, int sequence,
                                                unsigned long long* failure) {
  const auto added = [&](int) { return view.row_count; };
  take_pages(view, kv_heads, added, [&](const Reservation& r, int32_t held) {
    const FailureKind kind = r.table_full ? FailureKind::kPageTableFull : FailureKind::kPagesExhausted;
    report_failure(failure, failure_word(kind, sequence, r.needed, held));
  });
}

// Grid (pages, heads, sequences); a warp writes pages of a head.
template <class In, class Kv, int kWidth>
__global__ void __launch_bounds__(kThreads, 1) append_rows(const AppendParams<In, Kv> p) {
  const CacheView view = p.views[blockIdx.z];
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  for (int head = blockIdx.y * kWarps + warp; head < p.kv_heads; head += gridDim.y * kWarps) {
    const Reservation r = reserve(view, p.kv_heads, head, [&](int) { return view.row_count; });
    if (!r.granted) break;
    const int32_t length = view.length[head];
    const int32_t pages = pages_of(length + view.row_count);
    for (int32_t index = length / kPageRows + blockIdx.x; index < pages; index += gridDim.x) {
      write_page<In, Kv, kWidth>(p, view, head, index, r);
    }
  }
  if (!p.takes_pages) return;
  __syncthreads();
  take_step_pages(view, p.kv_heads, static_cast<int>(blockIdx.z), p.failure);
}

struct TakePagesParams {
  const CacheView* views;
  unsigned long long* failure;
  int kv_heads;
};

__global__ void __launch_bounds__(kThreads, 1) append_take_pages(const TakePagesParams p) {
  take_step_pages(p.views[blockIdx.x], p.kv_heads, static_cast<int>(blockIdx.x), p.failure);
}

template <class In, class Kv>
cudaError_t launch_append(CudaStream& cuda, const AppendArgs& a) {
  const int64_t rows = a.k.shape[0];
  const int64_t kv_heads = a.k.shape[1];
  const int64_t dim = a.k.shape[2];
  const int64_t half = dim / 2;
  const bool one_block = rows <= kOneBlockRows * a.sequences;
  const AppendParams<In, Kv> params{a.views,
                                    a.k.as<In>(),
                                    a.v.data,
                                    a.positions.as<int32_t>(),
                                    a.cos.as<float>(),
                                    a.sin.as<float>(),
                                    a.pages.k.as<Kv>(),
                                    a.pages.v.as<Kv>(),
                                    a.pages.positions.as<int32_t>(),
                                    cuda.failure(),
                                    a.k.stride[0],
                                    a.k.stride[1],
                                    a.v.stride[0],
                                    a.v.stride[1],
                                    static_cast<int>(kv_heads),
                                    static_cast<int>(half),
                                    a.v.dtype == DType::kF32,
                                    one_block};
  constexpr int kWidth = kVectorWidth<In, Kv>;
  const bool aligned = half % kWidth == 0 && rows_aligned(a.k, kWidth) && rows_aligned(a.v, kWidth) &&
                       rows_aligned(a.pages.k, kWidth) && rows_aligned(a.pages.v, kWidth) &&
                       (!a.cos || (rows_aligned(a.cos, kWidth) && rows_aligned(a.sin, kWidth)));
  const auto kernel = aligned ? append_rows<In, Kv, kWidth> : append_rows<In, Kv, 1>;
  // One sequence may have all rows, and they may begin inside a page.
  const dim3 grid = one_block
                        ? grid_of(1, 1, a.sequences)
                        : grid_of(divide_up(rows, kPageRows) + 1, divide_up(kv_heads, kWarps), a.sequences);
  const cudaError_t error = launch(kernel, grid, dim3(kThreads), 0, cuda.handle(), params);
  if (error != cudaSuccess || one_block) return error;
  return launch(append_take_pages, grid_of(a.sequences), dim3(kThreads), 0, cuda.handle(),
                TakePagesParams{a.views, cuda.failure(), static_cast<int>(kv_heads)});
}

}  // namespace

Status append(Stream& stream, const AppendArgs& a) {
  CudaStream& cuda = cuda_stream(stream);
  if (a.sequences == 0) return {};
  const cudaError_t error = visit_activation(a.k.dtype, [&](auto in_element) {
    return visit_storage(a.pages.k.dtype, [&](auto kv_element) {
      return launch_append<typename decltype(in_element)::Type, typename decltype(kv_element)::Type>(cuda, a);
    });
  });
  return cuda.launched(error, "append");
}

}  // namespace longhaul::cuda
