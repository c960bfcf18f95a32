// Which packed queries meet which cached rows in score_keys.
#pragma once

#include "cuda/ptx.cuh"
#include "cuda/query_tile.cuh"
#include "cuda/scoring_params.h"

namespace longhaul::cuda {

// Rows that some query sees.
__device__ __forceinline__ int32_t seen_rows(const ScoreParams& p, int32_t head) {
  return max(p.view->length[head] - p.ignore_last, 0);
}

// Rows that get a score: all that are seen but the window's own.
__device__ __forceinline__ int32_t scored_rows(const ScoreParams& p, int32_t head) {
  return static_cast<int32_t>(min(static_cast<int64_t>(max(seen_rows(p, head) - p.window, 0)), p.capacity));
}

// Packed rows [first, first + tile_rows) of a head. To the window's queries the seen rows end with their own.
__device__ __forceinline__ QueryTile score_tile(const ScoreParams& p, int32_t head, int32_t first,
                                                int32_t tile_rows) {
  QueryTile tile;
  tile.first = first;
  tile.rows = max(min(p.queries * p.group - first, tile_rows), 0);
  tile.head = head;
  tile.group = p.group;
  tile.length = seen_rows(p, head);
  tile.reach = tile.length - p.window + 1;
  tile.pages = p.view->page_table + static_cast<int64_t>(head) * p.view->max_pages;
  return tile;
}

// Where pass 1 puts the sum of packed row `row`.
__device__ __forceinline__ float* split_lse(const ScoreParams& p, int32_t split, int32_t head, int32_t row) {
  const int64_t rows = static_cast<int64_t>(p.queries) * p.group;
  return p.split_lse + (static_cast<int64_t>(split) * p.kv_heads + head) * rows + row;
}

// Sum of packed row `row` for pass 2. Behind the last row it is infinite: such a row gives nobody anything.
__device__ __forceinline__ float final_lse(const ScoreParams& p, int32_t head, int32_t row) {
  const int32_t rows = p.queries * p.group;
  return row < rows ? p.lse[static_cast<int64_t>(head) * rows + row] : INFINITY;
}

// What a key gets from one packed row, collected: the largest exponent, or the sum of the weights.
__device__ __forceinline__ float collect(float collected, float exponent, bool mean) {
  return mean ? collected + ptx::ex2_approx(exponent) : fmaxf(collected, exponent);
}
__device__ __forceinline__ float collected_start(bool mean) {
  return mean ? 0.0f : -INFINITY;
}
__device__ __forceinline__ float final_score(const ScoreParams& p, float collected) {
  if (!p.mean) return ptx::ex2_approx(collected);  // the largest weight is that of the largest exponent
  return collected / static_cast<float>(p.queries * p.group);
}

}  // namespace longhaul::cuda
