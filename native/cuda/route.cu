// route: gate logits and the weights made of them, without leaving the block.
#include "cuda/element.cuh"
#include "cuda/experts.h"
#include "cuda/ops.h"
#include "cuda/routing.cuh"
#include "cuda/stream.h"

namespace longhaul::cuda {
namespace {

template <class X>
struct RouteParams {
  const X* x;
  const float* gate;
  float* weights;
  float* entropy;  // this and the next two may be null
  unsigned char* mask;
  float* logits;
  int64_t x_stride, weights_stride, entropy_stride, logits_stride;
  int rows, experts, cols;
  bool x_aligned;
  RouterSettings router;
};

template <class X, int kRows>
__global__ void __launch_bounds__(kRouterThreads) route_rows(const RouteParams<X> p) {
  DYNAMIC_SMEM(smem);
  auto& storage = *reinterpret_cast<RouterStorage<kRows>*>(smem);
  const int first = blockIdx.x * kRows;
  const X* x[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) x[r] = p.x + min(first + r, p.rows - 1) * p.x_stride;
  gate_logits(x, p.gate, p.experts, p.cols, p.x_aligned, storage);

  const int lane = threadIdx.x % kWarpThreads, warp = threadIdx.x / kWarpThreads;
  const int64_t row = first + warp;
  if (warp >= kRows || row >= p.rows) return;  // whole warps
  RoutedExpert routed[kLaneExperts];
  const double entropy = route_warp(storage.logits[warp], p.experts, p.router, storage.p[warp], routed);
#pragma unroll
  for (int i = 0; i < kLaneExperts; ++i) {
    const int e = lane + i * kWarpThreads;
    if (e >= p.experts) continue;
    p.weights[row * p.weights_stride + e] = static_cast<float>(routed[i].weight);
    if (p.mask != nullptr) p.mask[row * p.experts + e] = routed[i].kept;
    if (p.logits != nullptr) p.logits[row * p.logits_stride + e] = storage.logits[warp][e];
  }
  if (lane == 0 && p.entropy != nullptr) p.entropy[row * p.entropy_stride] = static_cast<float>(entropy);
}

}  // namespace

cudaError_t launch_route(const RouteArgs& a, cudaStream_t stream) {
  const int64_t rows = a.x.shape[0];
  return visit_activation(a.x.dtype, [&](auto element) {
    using X = typename decltype(element)::Type;
    const RouteParams<X> params{a.x.as<X>(),
                                a.gate.as<float>(),
                                a.weights.as<float>(),
                                a.entropy.as<float>(),
                                a.mask.as<unsigned char>(),
                                a.logits.as<float>(),
                                a.x.stride[0],
                                a.weights.stride[0],
                                a.entropy.stride[0],
                                a.logits.stride[0],
                                static_cast<int>(rows),
                                static_cast<int>(a.gate.shape[0]),
                                static_cast<int>(a.x.shape[1]),
                                rows_aligned(a.x, 4),
                                a.router};
    // One row or four: rows do not see each other, so a row's bits are the same in both.
    if (rows == 1)
      return launch(route_rows<X, 1>, grid_of(1), dim3(kRouterThreads), sizeof(RouterStorage<1>), stream,
                    params);
    return launch(route_rows<X, 4>, grid_of(divide_up(rows, 4)), dim3(kRouterThreads), sizeof(RouterStorage<4>),
                  stream, params);
  });
}

Status route(Stream& stream, const RouteArgs& a) {
  if (a.x.shape[0] == 0) return {};
  CudaStream& cuda = cuda_stream(stream);
  return cuda.launched(launch_route(a, cuda.handle()), "route");
}

}  // namespace longhaul::cuda
