// Launchers behind the ops of LoRA experts.
#pragma once

#include <cuda_runtime_api.h>

#include "core/ops.h"

namespace longhaul::cuda {

// As the op, and strides between the rows of entropy and logits too. At least one row.
cudaError_t launch_route(const RouteArgs&, cudaStream_t);

// Both halves for the newest rows of sequences: every segment and part in one launch, or as few as parameters
// allow.
cudaError_t launch_shrink_decode(const ExpertShrinkArgs&, cudaStream_t);
cudaError_t launch_expand_decode(const ExpertExpandArgs&, cudaStream_t);

// out[i, e * rank + k] = scale * w[i, e] * middle[i, e * rank + k], 0 for experts of weight 0: what the second
// product of a block of rows reads.
struct WeightedMiddle {
  const float* middle;
  const float* weights;  // null: 1
  void* out;
  int64_t middle_stride, weights_stride, out_stride;
  int rows, depth, rank;
  float scale;
  bool bf16;  // else f32
};
cudaError_t launch_weighted_middle(const WeightedMiddle&, cudaStream_t);

// out = factor * out + offset
struct Rescale {
  void* out;
  const float* factor;
  const float* offset;  // or null
  int64_t stride;
  int rows, columns;
  bool bf16;  // else f32
};
cudaError_t launch_rescale(const Rescale&, cudaStream_t);

}  // namespace longhaul::cuda
