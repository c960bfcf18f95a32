// The one header that knows how a kernel reaches its machine: nvcc for a GPU, or g++ and native/emulator.
//
// Kernel files include this (or ptx.cuh, hopper.cuh); host files (.cc) include cuda_runtime_api.h alone.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__CUDACC__)

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

// The block's dynamic shared memory, 1024-aligned as swizzled tiles want it. Kernels lay one Storage struct on
// it.
#define DYNAMIC_SMEM(name) extern __shared__ __align__(1024) unsigned char name[]

namespace longhaul::cuda {

// Queues a kernel. Returns what the launch itself reports; errors of its run come with a later call.
template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t smem, cudaStream_t stream, A&&... args) {
  constexpr size_t kWithoutAsking = 48 << 10;
  if (smem > kWithoutAsking) {
    const auto attribute = cudaFuncAttributeMaxDynamicSharedMemorySize;
    if (cudaError_t e = cudaFuncSetAttribute(kernel, attribute, static_cast<int>(smem)); e != cudaSuccess)
      return e;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = smem;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...);
}

}  // namespace longhaul::cuda

#else

#include <tuple>

#include "emulator/intrinsics.h"
#include "emulator/launch.h"
#include "emulator/warp.h"

#define DYNAMIC_SMEM(name) unsigned char* name = ::longhaul::emulator::current_block->shared

namespace longhaul::cuda {

template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t smem, cudaStream_t stream, A&&... args) {
  std::tuple<P...> values(static_cast<P>(args)...);
  return emulator::enqueue_launch(stream, {reinterpret_cast<const void*>(kernel), grid, block, smem,
                                           [kernel, values] { std::apply(kernel, values); }});
}

}  // namespace longhaul::cuda

#endif

namespace longhaul::cuda {

// What one thread moves at once. The compilers of both sides let these alias everything (-fno-strict-aliasing).
using Bytes16 = uint4;
using Bytes8 = uint2;

__device__ __forceinline__ Bytes16 load16(const void* p) {
  return *static_cast<const Bytes16*>(p);
}
__device__ __forceinline__ Bytes8 load8(const void* p) {
  return *static_cast<const Bytes8*>(p);
}
__device__ __forceinline__ void store16(void* p, Bytes16 value) {
  *static_cast<Bytes16*>(p) = value;
}
__device__ __forceinline__ void store8(void* p, Bytes8 value) {
  *static_cast<Bytes8*>(p) = value;
}

}  // namespace longhaul::cuda
