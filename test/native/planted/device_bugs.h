// Small kernels, each with a place where a bug can be planted. Without one they compute what run_* says.
#pragma once

#include <cuda_runtime_api.h>

namespace longhaul::testing {

constexpr int kThreads = 96;  // three warps: more than one, and not a power of two
constexpr int kTiles = 5;

enum class Bug {
  kNone,
  kNoBarrierBeforeReuse,  // the next tile is written while slower warps still read this one
  kNoBarrierAfterLoad,    // a tile is read before other warps have written it
  kNoWarpBarrier,         // lanes exchange through shared memory with no __syncwarp between
  kWriteOnePast,          // the last thread writes one element behind the block's shared memory
  kReadOnePast,           // ... reads it
  kNoAsyncWait,           // data of cp.async is used before the wait
  kDivergentBarrier,      // two warps meet in different __syncthreads
  kBarrierInBranch,       // one warp waits for a barrier that the others never reach
  kUninitialised,         // shared memory is read that nobody wrote
  kNoFullWait,            // a TMA tile is used before its mbarrier says it is there
  kNoEmptyWait,           // ... is overwritten before its readers are done
  kStoreOnePast,          // one element behind a buffer in device memory is written
};

// Puts the kernels into `stream`. `in` holds kThreads * kTiles floats and `out` kThreads, all in device memory.

// out[i] = sum over tiles t of in[t][i] + in[t][(i + 33) % kThreads]: every value passes through shared memory.
cudaError_t run_tile_sum(Bug bug, const float* in, float* out, cudaStream_t stream);
// The same by cp.async with two buffers.
cudaError_t run_async_tile_sum(Bug bug, const float* in, float* out, cudaStream_t stream);
// out[i] = in[i] of the opposite lane of the warp.
cudaError_t run_warp_reverse(Bug bug, const float* in, float* out, cudaStream_t stream);
// out[i] = sum over tiles t of in[t][i], by TMA and mbarriers with two buffers. kThreads must be a multiple
// of 4.
cudaError_t run_bulk_tile_sum(Bug bug, const float* in, float* out, cudaStream_t stream);
// out[i] = scale * in[i] for the first `count`.
cudaError_t run_scale(Bug bug, const float* in, float* out, int count, float scale, cudaStream_t stream);

}  // namespace longhaul::testing
