// Kernels of attention, scoring, the cache and sampling for one instruction set.
#pragma once

#include <stdint.h>

#include "cpu/isa/dense_kernels.h"

namespace longhaul::cpu {

// Rows of a page, as in core/ops.h, which kernels cannot include.
constexpr int kKernelPageRows = 16;

// Keys of one partial softmax state. Every row's keys are cut at multiples of this and its states merged in
// order, whoever computes them, so the bits of a result do not depend on how the work was shared out.
constexpr int kChunkKeys = 256;
constexpr int kChunkPages = kChunkKeys / kKernelPageRows;

constexpr int kMaxKernelDim = 256;

// Query rows that share one pass over the keys: a query's heads of one group, then the next query's. Many, for
// the keys are rearranged once a pass; what they take of memory must fit a slot's scratch.
constexpr int kTileRows = 96;
constexpr int tile_rows(int dim) {
  return dim <= 128 ? kTileRows : 64;
}

// Rows whose values are added, and then merged, at a time.
constexpr int kMergeRows = 12;

// Floats from one row of scores to the next: not a power of two, or the rows would share few sets of a cache.
constexpr int kScoreStride = kChunkKeys + 16;

// Keys rearranged at a time, at most.
constexpr int kMaxBlockKeys = 32;

// Floats of one query or accumulator row.
constexpr int padded_dim(int dim) {
  return (dim + 15) / 16 * 16;
}

// How a tile's queries are laid out, and keys multiplied with them.
enum class QueryForm {
  kValues,  // [rows, padded_dim] f32; keys are widened
  kPairs,   // [rows, padded_dim] of which the first half holds bf16; keys are taken as pairs of bf16
  // [rows / kQuadRows, dim / 16, kQuadRows, 16] bf16, for few rows and a dim that 16 divides: each score is
  // eight chains of pairs. As with kPairs, values are taken as pairs.
  kQuads,
};
constexpr int kQuadRows = 4;

// Floats that a quad of queries takes.
constexpr int quad_floats(int dim) {
  return kQuadRows * dim / 2;
}

// Pages asked for while others are read: in place of page i that is read, all of far[i] and of near[i], some
// pages on. Every page is asked for twice on its way, because of requests that come too fast the processor
// drops some. far = null: none.
struct FetchPages {
  const void* const* far;
  const void* const* near;
};

// Scaled scores of a tile's rows against one chunk of keys. All exponentials here are powers of two: `scale`
// holds the factor log2(e), and maxima are binary logarithms.
struct ScoreTile {
  const float* q;           // packed by pack_query
  const int32_t* visible;   // [rows] keys of the chunk that each row sees, ascending, the last at least 1
  const void* const* keys;  // [kChunkPages] pages of [kKernelPageRows, dim]; any page where no row sees one
  FetchPages fetch;
  Element type;  // of keys
  QueryForm form;
  int rows;
  int dim;
  float scale;
  float* transposed;  // scratch, [dim rounded up to 16, kMaxBlockKeys]
  float* scores;      // out, [rows up to a whole quad, kScoreStride]; beyond `visible` anything
};

// What attend_chunk reads beside keys: pages as in ScoreTile.
struct ValueTile {
  const void* const* values;
  FetchPages fetch;
};

// The softmax state of rows over some of their keys: sum and weighted values relative to 2^max.
// A row that saw nothing has sum 0.
struct SoftmaxRows {
  float* max;          // [rows]
  float* sum;          // [rows]
  float* accumulated;  // [rows, padded_dim]
};

struct AttentionKernels {
  // Whether queries and keys of bf16 can be multiplied in pairs.
  bool bf16_pairs;

  // Writes row `row` of a tile's queries.
  void (*pack_query)(const void* q, Element type, int dim, QueryForm form, int row, float* queries);

  // State of the tile's rows over the chunk; uses tile.scores.
  void (*attend_chunk)(const ScoreTile& tile, const ValueTile& values, const SoftmaxRows& out);
  // total = total merged with that state, which takes kMergeRows rows of `part` on the way.
  void (*merge_chunk)(const ScoreTile& tile, const ValueTile& values, const SoftmaxRows& part,
                      const SoftmaxRows& total);
  // total = total merged with part, for `rows` rows.
  void (*merge_rows)(const SoftmaxRows& part, const SoftmaxRows& total, int rows, int dim);
  // out = accumulated / sum; 0 when nothing was seen.
  void (*finish_row)(const float* accumulated, float sum, int dim, void* out, Element type);

  // Max and sum of the tile's rows over the chunk; rows that see nothing have sum 0.
  void (*softmax_chunk)(const ScoreTile& tile, float* max, float* sum);
  // For each key of the chunk: largest[key] = max(largest[key], score - lse[row]) over the tile's rows.
  void (*reduce_max)(const ScoreTile& tile, const float* lse, float* largest);
  // For each key of the chunk: total[key] += 2^(score - lse[row]), rows in order.
  void (*reduce_sum)(const ScoreTile& tile, const float* lse, float* total);

  // Both ask for the pages `fetch` on the way, as many as they read.
  // total[padded_dim] = sum of k / |k| over the first `rows` keys of a chunk; zero keys add nothing.
  void (*sum_units)(const void* const* keys, const void* const* fetch, Element type, int rows, int dim,
                    float* total);
  // out[i] = -(k_i / |k_i|) . direction; 0 for a zero key.
  void (*score_units)(const void* const* keys, const void* const* fetch, Element type, int rows, int dim,
                      const float* direction, float* out);

  // out = x, or x with pairs (i, i + dim / 2) rotated when cos is given.
  void (*store_rotated)(const void* x, Element from, const float* cos, const float* sin, int dim, void* out,
                        Element to);

  // x[i] = exp((x[i] - max) * scale)
  void (*exp_row)(float* x, int64_t n, float max, float scale);
};

}  // namespace longhaul::cpu
