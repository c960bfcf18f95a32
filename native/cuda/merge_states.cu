// Merges softmax states over disjoint keys: a block a row and head, its warps take parts in turn.
#include "cuda/attention_params.h"
#include "cuda/query_tile.cuh"
#include "cuda/softmax_state.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kLaneColumns = 4;
constexpr int kColumns = 32 * kLaneColumns;  // of one round over the parts

struct Storage {
  float max[kWarps];
  float sum[kWarps];
  float out[kWarps][kColumns];
};

// Part s belongs to warp s % kWarps and the warps are added up in order, so that parts without a key behind the
// last change nothing: a row's bits do not depend on how many parts there are room for.
__global__ void __launch_bounds__(kWarps * 32) merge(const MergeParams p) {
  DYNAMIC_SMEM(raw);
  auto& smem = *reinterpret_cast<Storage*>(raw);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t slots = p.rows * p.heads;
  const int64_t slot = blockIdx.x;

  float top = kNoScore;
  for (int64_t s = threadIdx.x; s < p.splits; s += kWarps * 32) top = fmaxf(top, p.parts_lse[s * slots + slot]);
  top = warp_max(top);
  if (lane == 0) smem.max[warp] = top;
  __syncthreads();
  top = smem.max[0];
#pragma unroll
  for (int w = 1; w < kWarps; ++w) top = fmaxf(top, smem.max[w]);

  for (int64_t first = 0; first < p.dim; first += kColumns) {
    float out[kLaneColumns] = {};
    float sum = 0;
#pragma unroll 4
    for (int64_t s = warp; s < p.splits; s += kWarps) {
      const float lse = p.parts_lse[s * slots + slot];
      if (lse == kNoScore) continue;  // such a part may hold anything
      const float weight = expf(lse - top);
      const float* part = p.parts + (s * slots + slot) * p.dim;
      sum += weight;
#pragma unroll
      for (int j = 0; j < kLaneColumns; ++j) {
        const int64_t column = first + lane + j * 32;
        if (column < p.dim) out[j] = fmaf(weight, part[column], out[j]);
      }
    }
    if (lane == 0) smem.sum[warp] = sum;
#pragma unroll
    for (int j = 0; j < kLaneColumns; ++j) smem.out[warp][lane + j * 32] = out[j];
    __syncthreads();

    const int64_t column = first + threadIdx.x;
    float total = 0;
    float merged = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      total += smem.sum[w];
      merged += smem.out[w][threadIdx.x];
    }
    const auto row = static_cast<int32_t>(slot / p.heads);
    const auto head = static_cast<int32_t>(slot % p.heads);
    if (column < p.dim) store(p.out, row, head, column, total == 0 ? 0.0f : merged / total);
    if (first == 0 && threadIdx.x == 0 && p.lse != nullptr) {
      p.lse[slot] = total == 0 ? kNoScore : top + logf(total);
    }
    __syncthreads();  // the next round writes the same places
  }
}

}  // namespace

cudaError_t launch_merge_states(const MergeParams& params, cudaStream_t stream) {
  return launch(merge, dim3(static_cast<unsigned>(params.rows * params.heads)), dim3(kWarps * 32),
                sizeof(Storage), stream, params);
}

}  // namespace longhaul::cuda
