// swiglu: silu(gate) * up.
#include "cuda/element.cuh"
#include "cuda/ops.h"
#include "cuda/stream.h"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 128;

template <class In, class Out>
struct SwigluParams {
  const In* gate_up;
  Out* out;
  int64_t in_stride;
  int64_t out_stride;
  int columns;
};

template <class In, class Out, int kWidth>
__global__ void __launch_bounds__(kThreads) swiglu_rows(const SwigluParams<In, Out> p) {
  const int64_t row = blockIdx.x;
  const int column = (blockIdx.y * kThreads + threadIdx.x) * kWidth;
  if (column >= p.columns) return;
  const In* gate_row = p.gate_up + row * p.in_stride;
  float gate[kWidth];
  float up[kWidth];
  load_floats(gate_row + column, gate);
  load_floats(gate_row + p.columns + column, up);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) up[i] *= gate[i] / (1.0f + expf(-gate[i]));
  store_floats(p.out + row * p.out_stride + column, up);
}

}  // namespace

Status swiglu(Stream& stream, const SwigluArgs& a) {
  CudaStream& cuda = cuda_stream(stream);
  const int64_t rows = a.out.shape[0];
  const int64_t columns = a.out.shape[1];
  if (rows == 0 || columns == 0) return {};
  const cudaError_t error = visit_activation(a.gate_up.dtype, [&](auto in_element) {
    return visit_activation(a.out.dtype, [&](auto out_element) {
      using In = typename decltype(in_element)::Type;
      using Out = typename decltype(out_element)::Type;
      const SwigluParams<In, Out> params{a.gate_up.as<In>(), a.out.as<Out>(), a.gate_up.stride[0],
                                         a.out.stride[0], static_cast<int>(columns)};
      constexpr int kWidth = kVectorWidth<In, Out>;
      if (columns % kWidth == 0 && rows_aligned(a.gate_up, kWidth) && rows_aligned(a.out, kWidth)) {
        return launch(swiglu_rows<In, Out, kWidth>, grid_of(rows, divide_up(columns, kThreads * kWidth)),
                      dim3(kThreads), 0, cuda.handle(), params);
      }
      return launch(swiglu_rows<In, Out, 1>, grid_of(rows, divide_up(columns, kThreads)), dim3(kThreads), 0,
                    cuda.handle(), params);
    });
  });
  return cuda.launched(error, "swiglu");
}

}  // namespace longhaul::cuda
