// rms_norm: a warp a row for the short rows of heads, a block a row for hidden states. Which one, and with how
// many threads, follows from the row's length alone.
#include <algorithm>

#include "cuda/block_reduce.cuh"
#include "cuda/element.cuh"
#include "cuda/ops.h"
#include "cuda/stream.h"

namespace longhaul::cuda {
namespace {

constexpr int kMaxThreads = 512;
constexpr int kBlockThreads = 128;  // of a block that holds several rows

template <class X, class Out>
struct RmsNormParams {
  X* x;
  const void* delta;  // null: none
  const float* weight;
  Out* out;
  int64_t rows;  // all, over heads too
  int64_t x_stride, x_head_stride;
  int64_t out_stride, out_head_stride;
  int64_t delta_stride;
  int heads;
  int dim;
  float eps;
  bool delta_is_f32;
};

struct NormStorage {
  WarpValues<float> sums;
};

// Block (threads of a row, rows). The second sweep finds the row in the first cache.
template <class X, class Out, int kWidth>
__global__ void __launch_bounds__(kMaxThreads, 1) rms_norm_rows(const RmsNormParams<X, Out> p) {
  DYNAMIC_SMEM(smem);
  auto& storage = *reinterpret_cast<NormStorage*>(smem);
  const int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  if (row >= p.rows) return;  // whole warps, and never where a block shares a row
  const int64_t outer = row / p.heads;
  const int64_t head = row - outer * p.heads;
  X* x = p.x + outer * p.x_stride + head * p.x_head_stride;
  Out* out = p.out + outer * p.out_stride + head * p.out_head_stride;
  const int step = static_cast<int>(blockDim.x) * kWidth;
  const int first = static_cast<int>(threadIdx.x) * kWidth;

  float squares = 0;
  for (int d = first; d < p.dim; d += step) {
    float values[kWidth];
    load_floats(x + d, values);
    if (p.delta != nullptr) {
      float delta[kWidth];
      load_activations(p.delta, p.delta_is_f32, outer * p.delta_stride + d, delta);
      // The norm is of the x that later ops will see.
#pragma unroll
      for (int i = 0; i < kWidth; ++i) values[i] = to_float(from_float<X>(values[i] + delta[i]));
      store_floats(x + d, values);
    }
#pragma unroll
    for (int i = 0; i < kWidth; ++i) squares += values[i] * values[i];
  }
  squares = blockDim.x == kWarpThreads ? warp_sum(squares) : block_sum(squares, storage.sums);
  const float factor = 1.0f / sqrtf(squares / static_cast<float>(p.dim) + p.eps);

  for (int d = first; d < p.dim; d += step) {
    float values[kWidth];
    float weight[kWidth];
    load_floats(x + d, values);
    load_floats(p.weight + d, weight);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) values[i] = values[i] * factor * weight[i];
    store_floats(out + d, values);
  }
}

template <int kWidth, class X, class Out>
cudaError_t launch_rms_norm(cudaStream_t stream, const RmsNormParams<X, Out>& params) {
  const int64_t lanes = round_up(divide_up(params.dim, kWidth), kWarpThreads);
  const auto threads = static_cast<unsigned>(std::min<int64_t>(lanes, kMaxThreads));
  const unsigned rows = threads == kWarpThreads ? kBlockThreads / kWarpThreads : 1;
  return launch(rms_norm_rows<X, Out, kWidth>, grid_of(divide_up(params.rows, rows)), dim3(threads, rows),
                sizeof(NormStorage), stream, params);
}

}  // namespace

Status rms_norm(Stream& stream, const RmsNormArgs& a) {
  CudaStream& cuda = cuda_stream(stream);
  const bool has_heads = a.x.rank == 3;
  const int64_t heads = has_heads ? a.x.shape[1] : 1;
  const int64_t dim = a.x.shape[a.x.rank - 1];
  const int64_t rows = a.x.shape[0] * heads;
  if (rows == 0) return {};
  const cudaError_t error = visit_activation(a.x.dtype, [&](auto x_element) {
    return visit_activation(a.out.dtype, [&](auto out_element) {
      using X = typename decltype(x_element)::Type;
      using Out = typename decltype(out_element)::Type;
      const RmsNormParams<X, Out> params{a.x.as<X>(),
                                         a.delta.data,
                                         a.weight.as<float>(),
                                         a.out.as<Out>(),
                                         rows,
                                         a.x.stride[0],
                                         has_heads ? a.x.stride[1] : 0,
                                         a.out.stride[0],
                                         has_heads ? a.out.stride[1] : 0,
                                         a.delta.stride[0],
                                         static_cast<int>(heads),
                                         static_cast<int>(dim),
                                         a.eps,
                                         a.delta.dtype == DType::kF32};
      constexpr int kWidth = kVectorWidth<X, Out>;
      const bool aligned = dim % kWidth == 0 && rows_aligned(a.x, kWidth) && rows_aligned(a.out, kWidth) &&
                           rows_aligned(a.weight, kWidth) && (!a.delta || rows_aligned(a.delta, kWidth));
      return aligned ? launch_rms_norm<kWidth>(cuda.handle(), params)
                     : launch_rms_norm<1>(cuda.handle(), params);
    });
  });
  return cuda.launched(error, "rms_norm");
}

}  // namespace longhaul::cuda
