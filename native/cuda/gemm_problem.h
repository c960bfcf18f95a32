// One product out = x * weight^T as its kernels get it, and the kernels' launchers.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/dtype.h"

namespace longhaul::cuda {

// What becomes of the sums.
struct GemmOut {
  void* data;
  int64_t stride;     // elements from row to row
  const float* bias;  // or null
  int rows;
  int outputs;
  bool bf16;  // else f32
  bool accumulate;
  int alignment;  // bytes that divide the address of every row: 16 at most
};

struct GemmProblem {
  const void* x;
  int64_t x_stride;  // elements from row to row
  int x_alignment;   // bytes that divide the address of every row: 16 at most
  const void* weight;
  int64_t pitch;  // elements from row to row, zeros from `cols` on
  int cols;
  DType x_type;
  DType weight_type;
  GemmOut out;
};

// Every launcher sums K in an order that depends on its kernel and the weight's shape alone: the tile it is
// asked for decides how much one block takes, never a bit of the result.

enum class BlockTile : uint8_t { kNarrow, kWide };

// bf16 x bf16, mma.sync.
cudaError_t launch_gemm_mma(const GemmProblem&, BlockTile, cudaStream_t);
// bf16 x bf16, wgmma fed by TMA: x_alignment 16, compute capability 9.0. One block a multiprocessor.
cudaError_t launch_gemm_sm90(const GemmProblem&, BlockTile, int multiprocessors, cudaStream_t);
// Any other mix, f32 arithmetic.
cudaError_t launch_gemm_simt(const GemmProblem&, BlockTile, cudaStream_t);

// How the warps of a block share a decode product.
struct DecodeShape {
  int splits;  // warps that share K: part of the order of the sum
  int panels;  // 16 outputs each, of one block
};

// bf16 x bf16 for few rows, mma.sync on weights that go from memory straight to registers.
cudaError_t launch_gemm_decode_mma(const GemmProblem&, DecodeShape, cudaStream_t);
// Any other mix for few rows, f32 arithmetic.
cudaError_t launch_gemm_decode_simt(const GemmProblem&, cudaStream_t);

}  // namespace longhaul::cuda
