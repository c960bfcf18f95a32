// What the kernels of score_keys take, and their launchers.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/ops.h"
#include "cuda/attention_params.h"

namespace longhaul::cuda {

// Packed rows are queries times the heads of the group, query-major, for each KV head.
struct ScoreParams {
  Pages k;
  const CacheView* view = nullptr;
  RowTensor q;
  int32_t queries = 0;
  int32_t kv_heads = 0;
  int32_t group = 0;
  int32_t dim = 0;
  int32_t ignore_last = 0;
  int32_t window = 0;
  float scale = 0;  // times log2(e)
  bool mean = false;
  int32_t splits = 0;  // of the rows that queries see
  float* split_lse =
      nullptr;  // [splits, kv_heads, queries * group], binary logarithms; as lse when there is one split
  float* lse = nullptr;      // [kv_heads, queries * group]
  float* scores = nullptr;   // where the reduced scores go, before pooling
  int64_t score_stride = 0;  // from head to head
  int64_t capacity = 0;
};

// Rows of one split of pass 1: fixed, so that scores do not depend on the capacity.
constexpr int32_t kScoreSplitRows = 1024;

// Pass 1: each packed row's log-sum-exp over the rows it sees, by splits. Pass 2: what each cached row gets.
cudaError_t launch_score_sums(const ScoreParams& params, DType kv, cudaStream_t stream);
cudaError_t launch_score_reduction(const ScoreParams& params, DType kv, cudaStream_t stream);
// The same in f32 arithmetic.
cudaError_t launch_f32_score_sums(const ScoreParams& params, DType kv, cudaStream_t stream);
cudaError_t launch_f32_score_reduction(const ScoreParams& params, DType kv, cudaStream_t stream);

// split_lse to lse.
cudaError_t launch_merge_score_sums(const ScoreParams& params, cudaStream_t stream);
// Averages over `kernel` neighbours, from params.scores to `pooled`.
cudaError_t launch_pool_scores(const ScoreParams& params, int32_t kernel, float* pooled, int64_t pooled_stride,
                               cudaStream_t stream);

}  // namespace longhaul::cuda
