// Prefix sums over a warp and over a block.
#pragma once

#include "cuda/block_reduce.cuh"

namespace longhaul::cuda {

// The sum over this lane and those below it.
template <class T>
__device__ __forceinline__ T warp_inclusive_sum(T value) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
#pragma unroll
  for (int lanes = 1; lanes < kWarpThreads; lanes *= 2) {
    const T other = __shfl_up_sync(kWholeWarp, value, lanes);
    if (lane >= lanes) value += other;
  }
  return value;
}

// The sum over the threads below this one; `total` becomes that over all. All threads of the block must call
// it.
template <class T>
__device__ __forceinline__ T block_exclusive_sum(T value, T& total, WarpValues<T>& shared) {
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  const T inclusive = warp_inclusive_sum(value);
  if (threadIdx.x % kWarpThreads == kWarpThreads - 1) shared.of[warp] = inclusive;
  __syncthreads();
  T before = 0;
  T sum = 0;
  const int warps = static_cast<int>(blockDim.x) / kWarpThreads;
  for (int w = 0; w < warps; ++w) {
    if (w == warp) before = sum;
    sum += shared.of[w];
  }
  __syncthreads();  // `shared` may be used again
  total = sum;
  return before + inclusive - value;
}

}  // namespace longhaul::cuda
