// pack_positions: a warp rotates the keys of a page where they lie. Rows know their new position from their own
// place alone, so pages do not wait for each other.
#include "cuda/cache_rows.cuh"
#include "cuda/element.cuh"
#include "cuda/ops.h"
#include "cuda/rotation.cuh"
#include "cuda/stream.h"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarpThreads;

template <class Kv>
struct PackPositionsParams {
  const CacheView* views;
  Kv* k;
  int32_t* positions;
  const double* frequencies;
  int half;
  int begin;
  int end;
};

// Grid (pages, heads, sequences).
template <class Kv>
__global__ void __launch_bounds__(kThreads) pack_pages(const PackPositionsParams<Kv> p) {
  const CacheView view = p.views[blockIdx.z];
  const int head = static_cast<int>(blockIdx.y);
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  const int first = (static_cast<int>(blockIdx.x) * kWarps + warp) * kPageRows;  // row of the head
  const int length = view.length[head];
  if (first >= length) return;
  const int rows = min(kPageRows, length - first);
  const int packed = p.end - length + first;
  const int64_t slot = slot_of(page_table_of(view, head), first);

  for (int item = lane; item < rows * p.half; item += kWarpThreads) {
    const int row = item / p.half;
    const int column = item - row * p.half;
    const int position = p.positions[slot + row];
    const int distance = packed + row - position;
    if (position < p.begin || distance == 0) continue;
    const SineCosine rotation = sine_cosine(__dmul_rn(distance, p.frequencies[column]));
    const auto cos = static_cast<float>(rotation.cos);
    const auto sin = static_cast<float>(rotation.sin);
    Kv* at = p.k + (slot + row) * 2 * p.half + column;
    const float low = to_float(at[0]);
    const float high = to_float(at[p.half]);
    at[0] = from_float<Kv>(low * cos - high * sin);
    at[p.half] = from_float<Kv>(high * cos + low * sin);
  }
  __syncwarp();  // every lane has read the old positions
  if (lane < rows && p.positions[slot + lane] >= p.begin) p.positions[slot + lane] = packed + lane;
}

}  // namespace

Status pack_positions(Stream& stream, const PackPositionsArgs& a) {
  CudaStream& cuda = cuda_stream(stream);
  if (a.sequences == 0) return {};
  const dim3 grid = grid_of(divide_up(divide_up(a.max_length, kPageRows), kWarps), a.kv_heads, a.sequences);
  const cudaError_t error = visit_storage(a.pages.k.dtype, [&](auto element) {
    using Kv = typename decltype(element)::Type;
    return launch(pack_pages<Kv>, grid, dim3(kThreads), 0, cuda.handle(),
                  PackPositionsParams<Kv>{a.views, a.pages.k.as<Kv>(), a.pages.positions.as<int32_t>(),
                                          a.frequencies.as<double>(), static_cast<int>(a.pages.k.shape[2] / 2),
                                          a.begin, a.end});
  });
  return cuda.launched(error, "pack_positions");
}

}  // namespace longhaul::cuda
