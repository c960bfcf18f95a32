// truncate: a block a sequence; only lengths and pages change hands.
#include "cuda/cache_rows.cuh"
#include "cuda/element.cuh"
#include "cuda/ops.h"
#include "cuda/stream.h"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads, 1)
    truncate_sequences(const CacheView* views, const int kv_heads, const int drop) {
  const CacheView view = views[blockIdx.x];
  shorten(view, kv_heads, [&](int head) { return max(view.length[head] - drop, 0); });
}

}  // namespace

Status truncate(Stream& stream, const TruncateArgs& a) {
  CudaStream& cuda = cuda_stream(stream);
  if (a.sequences == 0) return {};
  return cuda.launched(launch(truncate_sequences, grid_of(a.sequences), dim3(kThreads), 0, cuda.handle(),
                              a.views, a.kv_heads, a.drop),
                       "truncate");
}

}  // namespace longhaul::cuda
