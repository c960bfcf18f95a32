// score_keys on tensor cores. Pass 1 is attention without values: tiles of packed queries walk over the keys of
// a split. Pass 2 turns the product round: tiles of keys walk over the packed queries, so that a key's scores
// are collected in one warp, in one order.
#include "cuda/matrix_tile.cuh"
#include "cuda/paged_rows.cuh"
#include "cuda/query_rows.cuh"
#include "cuda/score_tile.cuh"
#include "cuda/softmax_state.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kColumns = 64;  // keys of pass 1, packed queries of pass 2, at a time

template <int kDim>
struct Shape {
  static constexpr int kRowBlocks = kDim == 256 ? 1 : 2;
  static constexpr int kWarpRows = kRowBlocks * 16;
  static constexpr int kRows = kThreads / 32 * kWarpRows;

  struct SumStorage {
    MatrixTile<kRows, kDim> q;
    MatrixTile<kColumns, kDim> k[2];
  };
  struct ReductionStorage {
    MatrixTile<kRows, kDim> k;
    MatrixTile<kColumns, kDim> q[2];
    alignas(16) float lse[2][kColumns];
  };
};

template <class Matrix, int kDim, bool kWhole>
__global__ void __launch_bounds__(kThreads, 2) sum_scores(const __grid_constant__ ScoreParams p) {
  using S = Shape<kDim>;
  DYNAMIC_SMEM(raw);
  auto& smem = *reinterpret_cast<typename S::SumStorage*>(raw);
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int warp_row = thread / 32 * S::kWarpRows;
  const auto head = static_cast<int32_t>(blockIdx.z);
  const auto split = static_cast<int32_t>(blockIdx.y);
  const QueryTile tile = score_tile(p, head, static_cast<int32_t>(blockIdx.x) * S::kRows, S::kRows);

  const int32_t begin = split * kScoreSplitRows;
  const int32_t end = min(tile.visible(tile.rows - 1), begin + kScoreSplitRows);
  if (begin >= end) {
    if (thread < tile.rows) *split_lse(p, split, head, tile.first + thread) = kNoScore;
    return;
  }
  HeadRows keys(p.k, tile.pages, end);
  if (kWhole) keys.assume_whole(kDim * 2);
  fetch_rows<kColumns, kThreads>(smem.k[0], keys, begin, thread);
  load_queries<Matrix, kThreads>(smem.q, p.q, tile, p.dim, thread);
  ptx::cp_async_commit();

  int visible[S::kRowBlocks][2];
#pragma unroll
  for (int r = 0; r < S::kRowBlocks; ++r) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      visible[r][h] = tile.visible(min(warp_row + r * 16 + h * 8 + lane / 4, tile.rows - 1));
    }
  }
  const int warp_sees_all = tile.visible(min(warp_row, tile.rows - 1));
  FragmentState state[S::kRowBlocks];
  int buffer = 0;
  for (int32_t first = begin; first < end; first += kColumns, buffer ^= 1) {
    ptx::cp_async_wait<0>();
    __syncthreads();  // these keys are there, and nobody reads the other buffer any more
    if (first + kColumns < end)
      fetch_rows<kColumns, kThreads>(smem.k[buffer ^ 1], keys, first + kColumns, thread);
    ptx::cp_async_commit();
    if (warp_row >= tile.rows) continue;

    float s[S::kRowBlocks][kColumns / 8][4];
    multiply_transposed<Matrix, kWhole>(s, smem.q, warp_row, smem.k[buffer], 0, p.dim, lane);
#pragma unroll
    for (int r = 0; r < S::kRowBlocks; ++r) {
      if (first + kColumns > warp_sees_all) hide_columns(s[r], first + lane % 4 * 2, visible[r]);
      float factor[2];
      state[r].add(s[r], p.scale, factor);
    }
  }

#pragma unroll
  for (int r = 0; r < S::kRowBlocks; ++r) {
    state[r].finish();
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = warp_row + r * 16 + h * 8 + lane / 4;
      if (row < tile.rows && lane % 4 == 0) {
        *split_lse(p, split, head, tile.first + row) = log2_sum(state[r].max[h], state[r].sum[h]);
      }
    }
  }
}

template <class Matrix, int kDim, bool kWhole>
__global__ void __launch_bounds__(kThreads, 2) reduce_scores(const __grid_constant__ ScoreParams p) {
  using S = Shape<kDim>;
  DYNAMIC_SMEM(raw);
  auto& smem = *reinterpret_cast<typename S::ReductionStorage*>(raw);
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int warp_row = thread / 32 * S::kWarpRows;
  const auto head = static_cast<int32_t>(blockIdx.y);
  const int32_t first_key = static_cast<int32_t>(blockIdx.x) * S::kRows;
  const int32_t scored = scored_rows(p, head);
  if (first_key >= scored) return;

  const auto fetch = [&](int32_t first, int buffer) {
    const QueryTile tile = score_tile(p, head, first, kColumns);
    fetch_queries<Matrix, kThreads>(smem.q[buffer], p.q, tile, p.dim, thread);
    if (thread < kColumns) smem.lse[buffer][thread] = final_lse(p, head, first + thread);
  };
  HeadRows keys(p.k, p.view->page_table + static_cast<int64_t>(head) * p.view->max_pages, scored);
  if (kWhole) keys.assume_whole(kDim * 2);
  fetch_rows<S::kRows, kThreads>(smem.k, keys, first_key, thread);
  fetch(0, 0);
  ptx::cp_async_commit();

  float collected[S::kRowBlocks][2];
#pragma unroll
  for (int r = 0; r < S::kRowBlocks; ++r) collected[r][0] = collected[r][1] = collected_start(p.mean);
  const int32_t rows = p.queries * p.group;
  int buffer = 0;
  for (int32_t first = 0; first < rows; first += kColumns, buffer ^= 1) {
    ptx::cp_async_wait<0>();
    __syncthreads();
    if (first + kColumns < rows) fetch(first + kColumns, buffer ^ 1);
    ptx::cp_async_commit();
    if (first_key + warp_row >= scored) continue;

    float s[S::kRowBlocks][kColumns / 8][4];
    multiply_transposed<Matrix, kWhole>(s, smem.k, warp_row, smem.q[buffer], 0, p.dim, lane);
#pragma unroll
    for (int c = 0; c < kColumns / 8; ++c) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float lse = smem.lse[buffer][c * 8 + lane % 4 * 2 + i];
#pragma unroll
        for (int r = 0; r < S::kRowBlocks; ++r) {
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            collected[r][h] = collect(collected[r][h], fmaf(s[r][c][h * 2 + i], p.scale, -lse), p.mean);
          }
        }
      }
    }
  }

#pragma unroll
  for (int r = 0; r < S::kRowBlocks; ++r) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float all = p.mean ? quad_sum(collected[r][h]) : quad_max(collected[r][h]);
      const int32_t key = first_key + warp_row + r * 16 + h * 8 + lane / 4;
      if (key < scored && lane % 4 == 0) p.scores[head * p.score_stride + key] = final_score(p, all);
    }
  }
}

template <class Matrix, int kDim>
cudaError_t launch_sums(const ScoreParams& p, cudaStream_t stream) {
  using S = Shape<kDim>;
  const int32_t rows = p.queries * p.group;
  const dim3 grid(static_cast<unsigned>((rows + S::kRows - 1) / S::kRows), static_cast<unsigned>(p.splits),
                  static_cast<unsigned>(p.kv_heads));
  const bool whole = p.dim == kDim && p.k.whole_chunks;
  const auto kernel = whole ? sum_scores<Matrix, kDim, true> : sum_scores<Matrix, kDim, false>;
  return launch(kernel, grid, dim3(kThreads), sizeof(typename S::SumStorage), stream, p);
}

template <class Matrix, int kDim>
cudaError_t launch_reduction(const ScoreParams& p, cudaStream_t stream) {
  using S = Shape<kDim>;
  const dim3 grid(static_cast<unsigned>((p.capacity + S::kRows - 1) / S::kRows),
                  static_cast<unsigned>(p.kv_heads));
  const bool whole = p.dim == kDim && p.k.whole_chunks;
  const auto kernel = whole ? reduce_scores<Matrix, kDim, true> : reduce_scores<Matrix, kDim, false>;
  return launch(kernel, grid, dim3(kThreads), sizeof(typename S::ReductionStorage), stream, p);
}

}  // namespace

cudaError_t launch_score_sums(const ScoreParams& p, DType kv, cudaStream_t stream) {
  const bool f16 = kv == DType::kF16;
  if (p.dim <= 64) return f16 ? launch_sums<F16Matrix, 64>(p, stream) : launch_sums<Bf16Matrix, 64>(p, stream);
  if (p.dim <= 128)
    return f16 ? launch_sums<F16Matrix, 128>(p, stream) : launch_sums<Bf16Matrix, 128>(p, stream);
  return f16 ? launch_sums<F16Matrix, 256>(p, stream) : launch_sums<Bf16Matrix, 256>(p, stream);
}

cudaError_t launch_score_reduction(const ScoreParams& p, DType kv, cudaStream_t stream) {
  const bool f16 = kv == DType::kF16;
  if (p.dim <= 64) {
    return f16 ? launch_reduction<F16Matrix, 64>(p, stream) : launch_reduction<Bf16Matrix, 64>(p, stream);
  }
  if (p.dim <= 128) {
    return f16 ? launch_reduction<F16Matrix, 128>(p, stream) : launch_reduction<Bf16Matrix, 128>(p, stream);
  }
  return f16 ? launch_reduction<F16Matrix, 256>(p, stream) : launch_reduction<Bf16Matrix, 256>(p, stream);
}

}  // namespace longhaul::cuda
