// rope_table and rope.
#include "cuda/element.cuh"
#include "cuda/ops.h"
#include "cuda/rotation.cuh"
#include "cuda/stream.h"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 128;

struct RopeTableParams {
  const int32_t* positions;
  const double* frequencies;
  float* cos;
  float* sin;
  int64_t count;
  int half;
};

__global__ void __launch_bounds__(kThreads) fill_rope_table(const RopeTableParams p) {
  const int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (at >= p.count) return;
  const int64_t row = at / p.half;
  const SineCosine rotation = sine_cosine(__dmul_rn(p.positions[row], p.frequencies[at - row * p.half]));
  p.cos[at] = static_cast<float>(rotation.cos);
  p.sin[at] = static_cast<float>(rotation.sin);
}

template <class X>
struct RopeParams {
  X* x;
  const float* cos;
  const float* sin;
  int64_t row_stride;
  int64_t head_stride;
  int heads;
  int half;
};

template <class X, int kWidth>
__global__ void __launch_bounds__(kThreads) rope_rows(const RopeParams<X> p) {
  const int64_t row = blockIdx.x;
  const int pieces = p.half / kWidth;
  const int item = blockIdx.y * kThreads + threadIdx.x;
  const int head = item / pieces;
  if (head >= p.heads) return;
  const int column = (item - head * pieces) * kWidth;
  X* low_at = p.x + row * p.row_stride + head * p.head_stride + column;
  float low[kWidth];
  float high[kWidth];
  load_floats(low_at, low);
  load_floats(low_at + p.half, high);
  rotate(low, high, p.cos + row * p.half + column, p.sin + row * p.half + column);
  store_floats(low_at, low);
  store_floats(low_at + p.half, high);
}

}  // namespace

Status rope_table(Stream& stream, const RopeTableArgs& a) {
  CudaStream& cuda = cuda_stream(stream);
  const int64_t half = a.frequencies.shape[0];
  const int64_t count = a.positions.shape[0] * half;
  if (count == 0) return {};
  const RopeTableParams params{
      a.positions.as<int32_t>(), a.frequencies.as<double>(), a.cos.as<float>(), a.sin.as<float>(), count,
      static_cast<int>(half)};
  return cuda.launched(
      launch(fill_rope_table, grid_of(divide_up(count, kThreads)), dim3(kThreads), 0, cuda.handle(), params),
      "rope_table");
}

Status rope(Stream& stream, const RopeArgs& a) {
  CudaStream& cuda = cuda_stream(stream);
  const int64_t rows = a.x.shape[0];
  const int64_t heads = a.x.shape[1];
  const int64_t half = a.x.shape[2] / 2;
  if (rows == 0 || heads == 0) return {};
  const cudaError_t error = visit_activation(a.x.dtype, [&](auto element) {
    using X = typename decltype(element)::Type;
    const RopeParams<X> params{a.x.as<X>(),   a.cos.as<float>(),       a.sin.as<float>(),     a.x.stride[0],
                               a.x.stride[1], static_cast<int>(heads), static_cast<int>(half)};
    constexpr int kWidth = kVectorWidth<X>;
    if (half % kWidth == 0 && rows_aligned(a.x, kWidth) && rows_aligned(a.cos, kWidth) &&
        rows_aligned(a.sin, kWidth)) {
      return launch(rope_rows<X, kWidth>, grid_of(rows, divide_up(heads * half / kWidth, kThreads)),
                    dim3(kThreads), 0, cuda.handle(), params);
    }
    return launch(rope_rows<X, 1>, grid_of(rows, divide_up(heads * half, kThreads)), dim3(kThreads), 0,
                  cuda.handle(), params);
  });
  return cuda.launched(error, "rope");
}

}  // namespace longhaul::cuda
