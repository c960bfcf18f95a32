// Element-wise steps between the products of LoRA experts.
#include "cuda/element.cuh"
#include "cuda/experts.h"
#include "cuda/ops.h"
#include "cuda/stream.h"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 128;

template <class Out>
__global__ void __launch_bounds__(kThreads) weighted_middle(const WeightedMiddle p) {
  const int64_t row = blockIdx.x;
  const int j = blockIdx.y * kThreads + threadIdx.x;
  if (j >= p.depth) return;
  const float weight = p.weights == nullptr ? 1.0f : p.weights[row * p.weights_stride + j / p.rank];
  // What an unused expert's middle holds is nobody's business, a NaN even.
  const float value = weight == 0 ? 0.0f : p.scale * weight * p.middle[row * p.middle_stride + j];
  static_cast<Out*>(p.out)[row * p.out_stride + j] = from_float<Out>(value);
}

template <class Out>
__global__ void __launch_bounds__(kThreads) rescale(const Rescale p) {
  const int column = blockIdx.y * kThreads + threadIdx.x;
  if (column >= p.columns) return;
  Out* out = static_cast<Out*>(p.out) + blockIdx.x * p.stride + column;
  const float value = p.factor[column] * to_float(*out);
  *out = from_float<Out>(p.offset == nullptr ? value : value + p.offset[column]);
}

template <class X, class Out>
struct AddParams {
  const X* x;
  const float* weights;  // null: 1
  Out* out;
  int64_t x_stride, weights_stride, out_stride;
  int columns;
  bool accumulate;
};

template <class X, class Out, int kWidth>
__global__ void __launch_bounds__(kThreads) add_rows(const AddParams<X, Out> p) {
  const int64_t row = blockIdx.x;
  const int column = (blockIdx.y * kThreads + threadIdx.x) * kWidth;
  if (column >= p.columns) return;
  const float weight = p.weights == nullptr ? 1.0f : p.weights[row * p.weights_stride];
  Out* out = p.out + row * p.out_stride + column;
  if (weight == 0 && p.accumulate) return;
  float values[kWidth] = {}, before[kWidth] = {};
  if (weight != 0) load_floats(p.x + row * p.x_stride + column, values);
  if (p.accumulate) load_floats(out, before);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) values[i] = fmaf(weight, values[i], before[i]);
  store_floats(out, values);
}

}  // namespace

cudaError_t launch_weighted_middle(const WeightedMiddle& p, cudaStream_t stream) {
  const dim3 grid = grid_of(p.rows, divide_up(p.depth, kThreads));
  if (p.bf16) return launch(weighted_middle<__nv_bfloat16>, grid, dim3(kThreads), 0, stream, p);
  return launch(weighted_middle<float>, grid, dim3(kThreads), 0, stream, p);
}

cudaError_t launch_rescale(const Rescale& p, cudaStream_t stream) {
  const dim3 grid = grid_of(p.rows, divide_up(p.columns, kThreads));
  if (p.bf16) return launch(rescale<__nv_bfloat16>, grid, dim3(kThreads), 0, stream, p);
  return launch(rescale<float>, grid, dim3(kThreads), 0, stream, p);
}

Status add_weighted_rows(Stream& stream, const AddWeightedRowsArgs& a) {
  CudaStream& cuda = cuda_stream(stream);
  const int64_t rows = a.x.shape[0], columns = a.x.shape[1];
  if (rows == 0 || columns == 0) return {};
  const cudaError_t error = visit_activation(a.x.dtype, [&](auto x_element) {
    return visit_activation(a.out.dtype, [&](auto out_element) {
      using X = typename decltype(x_element)::Type;
      using Out = typename decltype(out_element)::Type;
      const AddParams<X, Out> params{
          a.x.as<X>(),         a.weights.as<float>(), a.out.as<Out>(),           a.x.stride[0],
          a.weights.stride[0], a.out.stride[0],       static_cast<int>(columns), a.accumulate};
      constexpr int kWidth = kVectorWidth<X, Out>;
      if (columns % kWidth == 0 && rows_aligned(a.x, kWidth) && rows_aligned(a.out, kWidth)) {
        return launch(add_rows<X, Out, kWidth>, grid_of(rows, divide_up(columns, kThreads * kWidth)),
                      dim3(kThreads), 0, cuda.handle(), params);
      }
      return launch(add_rows<X, Out, 1>, grid_of(rows, divide_up(columns, kThreads)), dim3(kThreads), 0,
                    cuda.handle(), params);
    });
  });
  return cuda.launched(error, "add_weighted_rows");
}

}  // namespace longhaul::cuda
