// truncate: only lengths and pages change hands. One block takes the views one after the other: those of a
// sequence's layers share a stack, and blocks of their own would push onto it at the same time.
#include "cuda/cache_rows.cuh"
#include "cuda/element.cuh"
#include "cuda/ops.h"
#include "cuda/stream.h"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads, 1)
    truncate_views(const CacheView* views, const int count, const int kv_heads, const int drop) {
  for (int i = 0; i < count; ++i) {
    const CacheView view = views[i];
    shorten(view, kv_heads, [&](int head) { return max(view.length[head] - drop, 0); });
    __syncthreads();  // the stack's height is written before the next view reads it
  }
}

}  // namespace

Status truncate(Stream& stream, const TruncateArgs& a) {
  CudaStream& cuda = cuda_stream(stream);
  if (a.sequences == 0) return {};
  return cuda.launched(launch(truncate_views, dim3(1), dim3(kThreads), 0, cuda.handle(), a.views,
                              static_cast<int>(a.sequences), a.kv_heads, a.drop),
                       "truncate");
}

}  // namespace longhaul::cuda
