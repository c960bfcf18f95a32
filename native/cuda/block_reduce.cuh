// Sums over a warp and over a block, in one fixed order: the same bits in every run and in every thread.
#pragma once

#include "cuda/device.cuh"

namespace longhaul::cuda {

constexpr int kWarpThreads = 32;
constexpr uint32_t kWholeWarp = 0xffffffffu;

// Over groups of `width` neighbouring lanes, a power of two. Every lane gets its group's sum.
template <class T>
__device__ __forceinline__ T warp_sum(T value, int width = kWarpThreads) {
  for (int lanes = width / 2; lanes > 0; lanes /= 2) value += __shfl_xor_sync(kWholeWarp, value, lanes);
  return value;
}

template <class T>
__device__ __forceinline__ T warp_max(T value) {
  for (int lanes = kWarpThreads / 2; lanes > 0; lanes /= 2) {
    const T other = __shfl_xor_sync(kWholeWarp, value, lanes);
    value = other > value ? other : value;
  }
  return value;
}

// One value a warp, for blocks of one dimension.
template <class T>
struct WarpValues {
  T of[32];
};

// Over the block; every thread gets the sum. All threads must call it.
template <class T>
__device__ __forceinline__ T block_sum(T value, WarpValues<T>& shared) {
  value = warp_sum(value);
  if (threadIdx.x % kWarpThreads == 0) shared.of[threadIdx.x / kWarpThreads] = value;
  __syncthreads();
  T total = shared.of[0];
  const int warps = static_cast<int>(blockDim.x) / kWarpThreads;
  for (int w = 1; w < warps; ++w) total += shared.of[w];
  __syncthreads();  // `shared` may be used again
  return total;
}

// As block_sum.
template <class T>
__device__ __forceinline__ T block_max(T value, WarpValues<T>& shared) {
  value = warp_max(value);
  if (threadIdx.x % kWarpThreads == 0) shared.of[threadIdx.x / kWarpThreads] = value;
  __syncthreads();
  T most = shared.of[0];
  const int warps = static_cast<int>(blockDim.x) / kWarpThreads;
  for (int w = 1; w < warps; ++w) most = shared.of[w] > most ? shared.of[w] : most;
  __syncthreads();
  return most;
}

}  // namespace longhaul::cuda
