// What score_keys does row by row: the merge of split sums, and pooling.
#include "cuda/score_tile.cuh"
#include "cuda/softmax_state.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 128;

// A thread a packed row of a head.
__global__ void __launch_bounds__(kThreads) merge_sums(const __grid_constant__ ScoreParams p) {
  const auto row = static_cast<int32_t>(blockIdx.x * kThreads + threadIdx.x);
  const auto head = static_cast<int32_t>(blockIdx.y);
  const int32_t rows = p.queries * p.group;
  if (row >= rows) return;
  float max = kNoScore;
  float sum = 0;
  for (int32_t split = 0; split < p.splits; ++split) {
    const float part = *split_lse(p, split, head, row);
    float base;
    const float factor = raise_max(max, part, base);
    sum = fmaf(sum, factor, ptx::ex2_approx(part - base));
  }
  p.lse[static_cast<int64_t>(head) * rows + row] = log2_sum(max, sum);
}

// A thread a scored row: its average with the neighbours that are scored too, always over `kernel` places.
__global__ void __launch_bounds__(kThreads)
    pool(const __grid_constant__ ScoreParams p, int32_t kernel, float* pooled, int64_t pooled_stride) {
  const auto key = static_cast<int32_t>(blockIdx.x * kThreads + threadIdx.x);
  const auto head = static_cast<int32_t>(blockIdx.y);
  const int32_t scored = scored_rows(p, head);
  if (key >= scored) return;
  const float* from = p.scores + head * p.score_stride;
  float sum = 0;
  for (int32_t i = max(key - kernel / 2, 0); i <= min(key + kernel / 2, scored - 1); ++i) sum += from[i];
  pooled[head * pooled_stride + key] = sum / static_cast<float>(kernel);
}

unsigned blocks_of(int64_t count) {
  return static_cast<unsigned>((count + kThreads - 1) / kThreads);
}

}  // namespace

cudaError_t launch_merge_score_sums(const ScoreParams& p, cudaStream_t stream) {
  const dim3 grid(blocks_of(static_cast<int64_t>(p.queries) * p.group), static_cast<unsigned>(p.kv_heads));
  return launch(merge_sums, grid, dim3(kThreads), 0, stream, p);
}

cudaError_t launch_pool_scores(const ScoreParams& p, int32_t kernel, float* pooled, int64_t pooled_stride,
                               cudaStream_t stream) {
  const dim3 grid(blocks_of(p.capacity), static_cast<unsigned>(p.kv_heads));
  return launch(pool, grid, dim3(kThreads), 0, stream, p, kernel, pooled, pooled_stride);
}

}  // namespace longhaul::cuda
