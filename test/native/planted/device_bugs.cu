#include "cuda/hopper.cuh"
#include "planted/device_bugs.h"

namespace longhaul::testing {
namespace {

namespace ptx = cuda::ptx;

struct TileStorage {
  float tile[kThreads];
};

__global__ void tile_sum_kernel(Bug bug, const float* in, float* out) {
  DYNAMIC_SMEM(raw);
  TileStorage& storage = *reinterpret_cast<TileStorage*>(raw);
  const int i = static_cast<int>(threadIdx.x);
  float sum = 0.0f;
  for (int t = 0; t < kTiles; ++t) {
    if (bug != Bug::kUninitialised || t > 0 || i != 40) storage.tile[i] = in[t * kThreads + i];
    if (bug == Bug::kWriteOnePast) storage.tile[i + 1] = in[t * kThreads + i];
    if (bug == Bug::kDivergentBarrier && i < 32) {
      __syncthreads();
    } else if (bug != Bug::kNoBarrierAfterLoad) {
      __syncthreads();
    }
    sum += storage.tile[i] + storage.tile[(i + 33) % kThreads];
    if (bug == Bug::kReadOnePast) sum += storage.tile[i + 1] * 1e-30f;
    if (bug != Bug::kNoBarrierBeforeReuse) __syncthreads();
  }
  out[i] = sum;
}

struct AsyncStorage {
  float tile[2][kThreads];
};

__global__ void async_tile_sum_kernel(Bug bug, const float* in, float* out) {
  DYNAMIC_SMEM(raw);
  AsyncStorage& storage = *reinterpret_cast<AsyncStorage*>(raw);
  const int i = static_cast<int>(threadIdx.x);
  ptx::cp_async4(&storage.tile[0][i], in + i, true);
  ptx::cp_async_commit();
  float sum = 0.0f;
  for (int t = 0; t < kTiles; ++t) {
    const bool more = t + 1 < kTiles;
    if (more) ptx::cp_async4(&storage.tile[(t + 1) % 2][i], in + (t + 1) * kThreads + i, true);
    ptx::cp_async_commit();
    if (bug != Bug::kNoAsyncWait) ptx::cp_async_wait<1>();
    if (bug != Bug::kNoBarrierAfterLoad) __syncthreads();
    const float* tile = storage.tile[t % 2];
    sum += tile[i] + tile[(i + 33) % kThreads];
    if (bug != Bug::kNoBarrierBeforeReuse) __syncthreads();
  }
  out[i] = sum;
}

__global__ void warp_reverse_kernel(Bug bug, const float* in, float* out) {
  DYNAMIC_SMEM(raw);
  TileStorage& storage = *reinterpret_cast<TileStorage*>(raw);
  const int i = static_cast<int>(threadIdx.x);
  storage.tile[i] = in[i];
  if (bug != Bug::kNoWarpBarrier) __syncwarp();
  out[i] = storage.tile[i ^ 31];
  if (bug == Bug::kBarrierInBranch && i < 64) ptx::bar_sync(1, kThreads);
}

struct BulkStorage {
  alignas(128) float tile[2][kThreads];
  ptx::Mbar full[2];
  ptx::Mbar empty[2];
};

// Thread 0 only brings tiles, the others add them up.
__global__ void bulk_tile_sum_kernel(Bug bug, const __grid_constant__ cuda::TensorMap map, float* out) {
  DYNAMIC_SMEM(raw);
  BulkStorage& storage = *reinterpret_cast<BulkStorage*>(raw);
  const int i = static_cast<int>(threadIdx.x) - 32;
  if (i == -32) {
    for (int stage = 0; stage < 2; ++stage) {
      ptx::mbar_init(&storage.full[stage], 1);
      ptx::mbar_init(&storage.empty[stage], kThreads);
    }
    ptx::mbar_fence_init();
  }
  __syncthreads();
  if (i == -32) {
    for (int t = 0; t < kTiles; ++t) {
      const int stage = t % 2;
      if (bug != Bug::kNoEmptyWait) ptx::mbar_wait(&storage.empty[stage], (t / 2 & 1) ^ 1);
      ptx::mbar_expect(&storage.full[stage], sizeof storage.tile[stage]);
      ptx::tma_load_2d(storage.tile[stage], &map, &storage.full[stage], 0, t);
    }
  } else if (i >= 0) {
    float sum = 0.0f;
    for (int t = 0; t < kTiles; ++t) {
      const int stage = t % 2;
      if (bug != Bug::kNoFullWait) ptx::mbar_wait(&storage.full[stage], t / 2 & 1);
      sum += storage.tile[stage][i];
      ptx::mbar_arrive(&storage.empty[stage]);
    }
    out[i] = sum;
  }
}

__global__ void scale_kernel(Bug bug, const float* in, float* out, int count, float scale) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) out[i] = scale * in[i];
  if (bug == Bug::kStoreOnePast && i == count) out[i] = scale;
}

}  // namespace

cudaError_t run_tile_sum(Bug bug, const float* in, float* out, cudaStream_t stream) {
  return cuda::launch(tile_sum_kernel, dim3(1), dim3(kThreads), sizeof(TileStorage), stream, bug, in, out);
}

cudaError_t run_async_tile_sum(Bug bug, const float* in, float* out, cudaStream_t stream) {
  return cuda::launch(async_tile_sum_kernel, dim3(1), dim3(kThreads), sizeof(AsyncStorage), stream, bug, in,
                      out);
}

cudaError_t run_warp_reverse(Bug bug, const float* in, float* out, cudaStream_t stream) {
  return cuda::launch(warp_reverse_kernel, dim3(1), dim3(kThreads), sizeof(TileStorage), stream, bug, in, out);
}

cudaError_t run_bulk_tile_sum(Bug bug, const float* in, float* out, cudaStream_t stream) {
  cuda::TensorMap map;
  const cuda::TensorMapArgs args{.element = cuda::TensorElement::kF32,
                                 .rank = 2,
                                 .base = in,
                                 .size = {kThreads, kTiles},
                                 .stride_bytes = {0, kThreads * int64_t{sizeof(float)}},
                                 .box = {kThreads, 1},
                                 .swizzle_bytes = 0};
  if (const cudaError_t error = cuda::encode_tensor_map(args, map); error != cudaSuccess) return error;
  return cuda::launch(bulk_tile_sum_kernel, dim3(1), dim3(kThreads + 32), sizeof(BulkStorage), stream, bug, map,
                      out);
}

cudaError_t run_scale(Bug bug, const float* in, float* out, int count, float scale, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(count / 64 + 1);
  return cuda::launch(scale_kernel, dim3(blocks), dim3(64), 0, stream, bug, in, out, count, scale);
}

}  // namespace longhaul::testing
