// Decode in f32 arithmetic: a warp has two outputs, its lanes share K, 16 bytes of weight each at a time.
#include "cuda/block_reduce.cuh"
#include "cuda/gemm_epilogue.cuh"
#include "cuda/gemm_simt.cuh"
#include "cuda/ptx.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kOutputs = 2;  // of a warp
constexpr int kBatch = 4;    // loads of each output in flight

template <class W>
struct Packet {
  static constexpr int kCount = 16 / static_cast<int>(sizeof(W));
  W values[kCount];
};

template <class X, class W, int kRows>
__global__ void __launch_bounds__(kWarps * 32) gemm_decode_simt_kernel(GemmProblem p) {
  constexpr int kCount = Packet<W>::kCount;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int output = (blockIdx.x * kWarps + warp) * kOutputs, first_row = blockIdx.y * kRows;
  if (output >= p.out.outputs) return;

  // What is past the end reads the last one again and is not stored.
  const W* weight[kOutputs];
#pragma unroll
  for (int j = 0; j < kOutputs; ++j)
    weight[j] = static_cast<const W*>(p.weight) + min(output + j, p.out.outputs - 1) * p.pitch;
  const X* x[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r)
    x[r] = static_cast<const X*>(p.x) + min(first_row + r, p.out.rows - 1) * p.x_stride;
  const bool aligned = p.x_alignment == 16;

  float sums[kRows][kOutputs] = {};
  for (int k = lane * kCount; k < p.cols; k += 32 * kCount * kBatch) {
    Bytes16 raw[kBatch][kOutputs];
#pragma unroll
    for (int i = 0; i < kBatch; ++i)
#pragma unroll
      for (int j = 0; j < kOutputs; ++j) {
        const int at = k + i * 32 * kCount;
        raw[i][j] = at < p.cols ? ptx::load16_once(weight[j] + at) : make_uint4(0, 0, 0, 0);
      }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      Packet<W> w[kOutputs];
#pragma unroll
      for (int j = 0; j < kOutputs; ++j) memcpy(&w[j], &raw[i][j], sizeof w[j]);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        float values[kCount];
        load_x_floats(x[r], k + i * 32 * kCount, p.cols, aligned, values);
#pragma unroll
        for (int j = 0; j < kOutputs; ++j)
#pragma unroll
          for (int n = 0; n < kCount; ++n) sums[r][j] = fmaf(values[n], to_float(w[j].values[n]), sums[r][j]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r)
#pragma unroll
    for (int j = 0; j < kOutputs; ++j) {
      const float sum = warp_sum(sums[r][j]);
      if (lane == r * kOutputs + j && first_row + r < p.out.rows && output + j < p.out.outputs)
        store_sum(p.out, first_row + r, output + j, sum);
    }
}

}  // namespace

cudaError_t launch_gemm_decode_simt(const GemmProblem& p, cudaStream_t stream) {
  return visit_operands(p, [&](auto x, auto weight) {
    using X = typename decltype(x)::Type;
    using W = typename decltype(weight)::Type;
    const int64_t blocks = divide_up(p.out.outputs, kWarps * kOutputs);
    // One row or four: rows do not see each other, so a row's bits are the same in both.
    if (p.out.rows == 1)
      return launch(gemm_decode_simt_kernel<X, W, 1>, grid_of(blocks), dim3(kWarps * 32), 0, stream, p);
    return launch(gemm_decode_simt_kernel<X, W, 4>, grid_of(blocks, divide_up(p.out.rows, 4)),
                  dim3(kWarps * 32), 0, stream, p);
  });
}

}  // namespace longhaul::cuda
