// What the attention and scoring kernels take, and which launcher serves which arguments.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/ops.h"

namespace longhaul::cuda {

// A tensor [rows, heads, dim] of f32 or bf16 whose last dimension is contiguous.
struct RowTensor {
  void* data = nullptr;
  int64_t row_stride = 0;   // in elements
  int64_t head_stride = 0;  // in elements
  bool bf16 = false;
  bool whole_chunks = false;  // every row is made of whole, aligned 16-byte chunks

  RowTensor() = default;
  explicit RowTensor(const Tensor& t);
};

// Pages of keys or values.
struct Pages {
  const void* data = nullptr;
  int32_t row_bytes = 0;
  bool whole_chunks = false;

  Pages() = default;
  explicit Pages(const Tensor& t);
};

struct AttentionParams {
  Pages k, v;
  const CacheView* views = nullptr;
  int32_t sequences = 0;
  RowTensor q;
  RowTensor out;
  float* lse = nullptr;    // [rows, heads], or null
  float* state = nullptr;  // [rows, heads, 2], or null: AttentionArgs::state
  // Partial states of a split cache, when there is more than one split: [splits, rows, heads, dim] and without
  // dim.
  float* parts = nullptr;
  float* parts_lse = nullptr;
  int32_t rows = 0;
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t group = 0;
  int32_t dim = 0;
  float scale = 0;  // of scores, times log2(e): softmax is computed in base 2

  AttentionParams() = default;
  explicit AttentionParams(const AttentionArgs& a);
};

// Cache rows of one split of decode attention. A fixed number, so that a row's result does not depend on the
// batch; few enough that one sequence with few heads still fills a GPU.
constexpr int32_t kSplitRows = 256;

inline int32_t splits_of(int32_t max_length) {
  return (max_length + kSplitRows - 1) / kSplitRows;
}

// Tiles of `tile_rows` packed rows (query-major, then the heads of the group) that hold the rows of all
// sequences, at most: the host does not know how rows are shared out.
inline int64_t query_tiles(int64_t rows, int64_t group, int64_t sequences, int64_t tile_rows) {
  const int64_t occupied = rows < sequences ? rows : sequences;
  return occupied + (rows * group - occupied) / tile_rows;
}

// kBlock on tensor cores: bf16 queries, keys and values in bf16 or f16.
cudaError_t launch_block_attention(const AttentionParams& params, DType kv, cudaStream_t stream);
// The same on sm_90a, for head dimensions that `has_sm90_attention` names and pages of whole chunks.
cudaError_t launch_block_attention_sm90(const AttentionParams& params, const PageArrays& pages,
                                        cudaStream_t stream);
inline bool has_sm90_attention(int32_t dim) {
  return dim == 64 || dim == 128;
}
// kDecode on tensor cores. Writes parts when `splits` > 1, else the result.
cudaError_t launch_decode_attention(const AttentionParams& params, DType kv, int32_t splits,
                                    cudaStream_t stream);
// f32 arithmetic, any dtypes. One split: kBlock, and the result is written; else as launch_decode_attention.
cudaError_t launch_f32_attention(const AttentionParams& params, DType kv, RowRole role, int32_t splits,
                                 cudaStream_t stream);

// parts [splits, rows, heads, dim] and parts_lse [splits, rows, heads] to out and lse (may be null).
struct MergeParams {
  const float* parts = nullptr;
  const float* parts_lse = nullptr;
  RowTensor out;
  float* lse = nullptr;
  int64_t splits = 0;
  int64_t rows = 0;
  int64_t heads = 0;
  int64_t dim = 0;
};
cudaError_t launch_merge_states(const MergeParams& params, cudaStream_t stream);

}  // namespace longhaul::cuda
