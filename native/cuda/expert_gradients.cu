// Gradients of LoRA experts and gates. Plain f32 sums over rows in order: the same bits in every run.
#include "cuda/block_reduce.cuh"
#include "cuda/element.cuh"
#include "cuda/ops.h"
#include "cuda/stream.h"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarpThreads;

struct BackParams {
  const float* dout;
  const float* b;  // [experts, outputs, rank]
  const float* weights;
  const float* middle;
  float* dweights;
  float* back;   // [rows, depth]: scale * w_e * B_e^T dout
  float* forth;  // [rows, depth]: scale * w_e * A_e x
  int64_t dout_stride, weights_stride, middle_row, middle_expert, dweights_stride;
  int experts, rank, outputs;
  float scale;
};

struct BackStorage {
  WarpValues<float> sums;
};

// Blocks (rows, experts): what dout says about one expert of one row.
__global__ void __launch_bounds__(kThreads) back_rows(const BackParams p) {
  DYNAMIC_SMEM(smem);
  auto& storage = *reinterpret_cast<BackStorage*>(smem);
  const int lane = threadIdx.x % kWarpThreads, warp = threadIdx.x / kWarpThreads;
  const int e = blockIdx.y;
  const int64_t row = blockIdx.x;
  const int64_t at = (row * p.experts + e) * p.rank;
  const float weight = p.weights[row * p.weights_stride + e];
  const float* middle = p.middle + row * p.middle_row + e * p.middle_expert;
  const float* b = p.b + int64_t{e} * p.outputs * p.rank;
  const float* dout = p.dout + row * p.dout_stride;
  float dweight = 0;
  for (int k = warp; k < p.rank; k += kWarps) {
    float sum = 0;
    if (weight != 0) {
      for (int n = lane; n < p.outputs; n += kWarpThreads) sum = fmaf(dout[n], b[int64_t{n} * p.rank + k], sum);
      sum = warp_sum(sum);
    }
    if (lane != 0) continue;
    // An unused expert's middle may hold anything.
    const float u = weight != 0 ? middle[k] : 0.0f;
    dweight = fmaf(sum, u, dweight);
    p.back[at + k] = p.scale * weight * sum;
    p.forth[at + k] = p.scale * weight * u;
  }
  dweight = block_sum(dweight, storage.sums);
  if (threadIdx.x == 0) p.dweights[row * p.dweights_stride + e] = p.scale * dweight;
}

// out[i, c] += sum_j left[i, j] * right[j, c], j in order.
struct SumParams {
  const float* left;
  const float* right;
  float* out;
  int64_t left_row, left_column, right_stride, out_stride;
  int count, columns;
};

__global__ void __launch_bounds__(kThreads) add_products(const SumParams p) {
  const int column = blockIdx.y * kThreads + threadIdx.x;
  if (column >= p.columns) return;
  const float* left = p.left + blockIdx.x * p.left_row;
  float* out = p.out + blockIdx.x * p.out_stride + column;
  float sum = *out;
  for (int j = 0; j < p.count; ++j)
    sum = fmaf(left[j * p.left_column], p.right[j * p.right_stride + column], sum);
  *out = sum;
}

struct OutputParams {
  const float* dout;
  const float* forth;
  float* db;  // [experts, outputs, rank]
  int64_t dout_stride, size;
  int rows, experts, rank, outputs;
};

__global__ void __launch_bounds__(kThreads) add_outputs(const OutputParams p) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= p.size) return;
  const int k = static_cast<int>(i % p.rank);
  const int64_t n = i / p.rank % p.outputs, e = i / p.rank / p.outputs;
  float sum = p.db[i];
  for (int64_t row = 0; row < p.rows; ++row)
    sum = fmaf(p.dout[row * p.dout_stride + n], p.forth[(row * p.experts + e) * p.rank + k], sum);
  p.db[i] = sum;
}

cudaError_t launch_products(int64_t rows, const SumParams& p, cudaStream_t stream) {
  return launch(add_products, grid_of(rows, divide_up(p.columns, kThreads)), dim3(kThreads), 0, stream, p);
}

}  // namespace

size_t expert_backward_workspace(const ExpertBackwardArgs& a) {
  return static_cast<size_t>(2 * a.x.shape[0] * a.a.shape[0] * a.a.shape[1]) * sizeof(float);
}

Status expert_backward(Stream& stream, const ExpertBackwardArgs& a, Workspace workspace) {
  CudaStream& cuda = cuda_stream(stream);
  const int64_t rows = a.x.shape[0], inputs = a.x.shape[1], outputs = a.dout.shape[1];
  const int64_t experts = a.a.shape[0], rank = a.a.shape[1], depth = experts * rank;
  if (rows == 0) return {};
  float* const back = static_cast<float*>(workspace.data);
  float* const forth = back + rows * depth;
  const auto done = [&](cudaError_t error) { return cuda.launched(error, "expert_backward"); };
  const BackParams params{a.dout.as<float>(),
                          a.b.as<float>(),
                          a.weights.as<float>(),
                          a.middle.as<float>(),
                          a.dweights.as<float>(),
                          back,
                          forth,
                          a.dout.stride[0],
                          a.weights.stride[0],
                          a.middle.stride[0],
                          a.middle.stride[1],
                          a.dweights.stride[0],
                          static_cast<int>(experts),
                          static_cast<int>(rank),
                          static_cast<int>(outputs),
                          a.scale};
  LONGHAUL_TRY(done(
      launch(back_rows, grid_of(rows, experts), dim3(kThreads), sizeof(BackStorage), cuda.handle(), params)));
  LONGHAUL_TRY(done(launch_products(rows,
                                    {back, a.a.as<float>(), a.dx.as<float>(), depth, 1, inputs, a.dx.stride[0],
                                     static_cast<int>(depth), static_cast<int>(inputs)},
                                    cuda.handle())));
  LONGHAUL_TRY(done(launch_products(depth,
                                    {back, a.x.as<float>(), a.da.as<float>(), 1, depth, a.x.stride[0], inputs,
                                     static_cast<int>(rows), static_cast<int>(inputs)},
                                    cuda.handle())));
  const int64_t size = experts * outputs * rank;
  return done(launch(
      add_outputs, grid_of(divide_up(size, kThreads)), dim3(kThreads), 0, cuda.handle(),
      OutputParams{a.dout.as<float>(), forth, a.db.as<float>(), a.dout.stride[0], size, static_cast<int>(rows),
                   static_cast<int>(experts), static_cast<int>(rank), static_cast<int>(outputs)}));
}

Status linear_backward(Stream& stream, const LinearBackwardArgs& a) {
  CudaStream& cuda = cuda_stream(stream);
  const int64_t rows = a.dy.shape[0], outputs = a.dy.shape[1];
  if (rows == 0 || outputs == 0) return {};
  const auto done = [&](cudaError_t error) { return cuda.launched(error, "linear_backward"); };
  if (a.dx) {
    LONGHAUL_TRY(done(launch_products(
        rows,
        {a.dy.as<float>(), a.weight.as<float>(), a.dx.as<float>(), a.dy.stride[0], 1, a.dx.shape[1],
         a.dx.stride[0], static_cast<int>(outputs), static_cast<int>(a.dx.shape[1])},
        cuda.handle())));
  }
  if (!a.dweight) return {};
  return done(launch_products(
      outputs,
      {a.dy.as<float>(), a.x.as<float>(), a.dweight.as<float>(), 1, a.dy.stride[0], a.x.stride[0],
       a.dweight.shape[1], static_cast<int>(rows), static_cast<int>(a.dweight.shape[1])},
      cuda.handle()));
}

}  // namespace longhaul::cuda
