// Attention of decode rows on tensor cores: bound by reading the cache. A block of threads takes one split of
// one KV head of one sequence, for all heads of the group; each warp streams pages of its own, with nobody to
// wait for until the split is done, and the warps' softmax states are merged at the end.
#include "cuda/attention_params.h"
#include "cuda/paged_rows.cuh"
#include "cuda/query_rows.cuh"
#include "cuda/softmax_state.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;
constexpr int kRows = 16;  // packed rows of a tile: what one matrix instruction takes

template <int kDim>
struct Shape {
  // 64 KiB of pages in flight a block, whatever the dimension.
  static constexpr int kStages = 256 / kDim;

  struct Stage {
    MatrixTile<kPageRows, kDim> k;
    MatrixTile<kPageRows, kDim> v;
  };
  // What a warp streams through, and then its result.
  union WarpStorage {
    Stage stages[kStages];
    float out[kRows][kDim];
  };
  struct Storage {
    MatrixTile<kRows, kDim> q;
    WarpStorage warps[kWarps];
    float max[kWarps][kRows];
    float sum[kWarps][kRows];
  };
};

// The split's result for the tile: to the parts, or to the output when there is but one split.
template <int kDim>
__device__ __forceinline__ void write_split(const AttentionParams& p, typename Shape<kDim>::Storage& smem,
                                            const QueryTile& tile, int split, int splits, int thread) {
  for (int i = thread; i < tile.rows * kDim; i += kThreads) {
    const int row = i / kDim;
    const int column = i % kDim;
    if (column >= p.dim) continue;
    float max = smem.max[0][row];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) max = fmaxf(max, smem.max[w][row]);
    float sum = 0;
    float out = 0;
    if (max != kNoScore) {
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        const float factor = ptx::ex2_approx(smem.max[w][row] - max);
        sum = fmaf(smem.sum[w][row], factor, sum);
        out = fmaf(smem.warps[w].out[row][column], factor, out);
      }
      out /= sum;
    }
    const int32_t step_row = tile.step_row(row);
    const int32_t head = tile.step_head(row);
    const int64_t slot = static_cast<int64_t>(step_row) * p.heads + head;
    const float lse = log2_sum(max, sum) * kLn2;
    if (splits > 1) {
      const int64_t part = static_cast<int64_t>(split) * p.rows * p.heads + slot;
      p.parts[part * p.dim + column] = out;
      if (column == 0) p.parts_lse[part] = lse;
    } else {
      store(p.out, step_row, head, column, out);
      if (column == 0 && p.lse != nullptr) p.lse[slot] = lse;
    }
  }
}

template <class Matrix, int kDim, bool kWhole>
__global__ void __launch_bounds__(kThreads, kDim == 256 ? 2 : 3)
    attend_split(const __grid_constant__ AttentionParams p) {
  using S = Shape<kDim>;
  constexpr int kStages = S::kStages;
  DYNAMIC_SMEM(raw);
  auto& smem = *reinterpret_cast<typename S::Storage*>(raw);
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int warp = thread / 32;
  const auto split = static_cast<int32_t>(blockIdx.x);
  const CacheView& view = p.views[blockIdx.z];
  const int32_t packed_rows = view.row_count * p.group;
  typename S::WarpStorage& mine = smem.warps[warp];

  for (int32_t first = 0; first < packed_rows; first += kRows) {
    const QueryTile tile = query_tile_of(view, p.group, static_cast<int32_t>(blockIdx.y), first, kRows);
    const int32_t begin = split * kSplitRows;
    const int32_t end = min(tile.visible(tile.rows - 1), begin + kSplitRows);
    if (begin >= end && begin > 0) {
      // Nothing to read: the merge only has to know.
      if (thread < tile.rows) {
        const int64_t slot = static_cast<int64_t>(tile.step_row(thread)) * p.heads + tile.step_head(thread);
        p.parts_lse[static_cast<int64_t>(split) * p.rows * p.heads + slot] = kNoScore;
      }
      continue;
    }
    HeadRows keys(p.k, tile.pages, end);
    HeadRows values(p.v, tile.pages, end);
    if (kWhole) {
      keys.assume_whole(kDim * 2);
      values.assume_whole(kDim * 2);
    }

    // This warp's pages: every kWarps-th of the split. Each is two groups of copies, the keys and the values.
    constexpr int32_t kStride = kWarps * kPageRows;
    const int32_t warp_begin = begin + warp * kPageRows;
#pragma unroll
    for (int stage = 0; stage < kStages; ++stage) {
      const int32_t at = warp_begin + stage * kStride;
      if (at < end) fetch_page<32>(mine.stages[stage].k, 0, keys, keys.page(at), at, lane);
      ptx::cp_async_commit();
      if (at < end) fetch_page<32>(mine.stages[stage].v, 0, values, values.page(at), at, lane);
      ptx::cp_async_commit();
    }
    load_queries<Matrix, kThreads>(smem.q, p.q, tile, p.dim, thread);
    const int visible[2] = {tile.visible(lane / 4), tile.visible(lane / 4 + 8)};
    const int all_see = tile.visible(0);
    __syncthreads();

    float out[1][kDim / 8][4] = {};
    FragmentState state;
    int stage = 0;
    for (int32_t at = warp_begin; at < end; at += kStride) {
      typename S::Stage& page = mine.stages[stage];
      const int32_t next = at + kStages * kStride;
      const unsigned char* next_keys = keys.page(next);
      const unsigned char* next_values = next_keys - keys.data + values.data;
      ptx::cp_async_wait<2 * kStages - 1>();
      __syncwarp();
      float s[1][kPageRows / 8][4];
      multiply_transposed<Matrix, kWhole>(s, smem.q, 0, page.k, 0, p.dim, lane);
      __syncwarp();  // the keys are read: their place is free
      if (next < end) fetch_page<32>(page.k, 0, keys, next_keys, next, lane);
      ptx::cp_async_commit();

      if (at + kPageRows > all_see) hide_columns(s[0], at + lane % 4 * 2, visible);
      float factor[2];
      state.add(s[0], p.scale, factor);
#pragma unroll
      for (int c = 0; c < kDim / 8; ++c) {
#pragma unroll
        for (int i = 0; i < 4; ++i) out[0][c][i] *= factor[i / 2];
      }
      ptx::cp_async_wait<2 * kStages - 1>();
      __syncwarp();
      multiply_add<Matrix, kWhole>(out, s, page.v, 0, p.dim, lane);
      __syncwarp();
      if (next < end) fetch_page<32>(page.v, 0, values, next_values, next, lane);
      ptx::cp_async_commit();
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }

    ptx::cp_async_wait_all();
    __syncwarp();  // no copy is on its way, no lane reads: the pages may be written over
    state.finish();
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = lane / 4 + h * 8;
      if (row >= tile.rows) continue;
#pragma unroll
      for (int c = 0; c < kDim / 8; ++c) {
        mine.out[row][c * 8 + lane % 4 * 2] = out[0][c][h * 2];
        mine.out[row][c * 8 + lane % 4 * 2 + 1] = out[0][c][h * 2 + 1];
      }
      if (lane % 4 == 0) {
        smem.max[warp][row] = state.max[h];
        smem.sum[warp][row] = state.sum[h];
      }
    }
    __syncthreads();
    write_split<kDim>(p, smem, tile, split, static_cast<int>(gridDim.x), thread);
    __syncthreads();  // the next tile's copies and queries land in the same places
  }
}

template <class Matrix, int kDim>
cudaError_t launch_dim(const AttentionParams& p, int32_t splits, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(splits), static_cast<unsigned>(p.kv_heads),
                  static_cast<unsigned>(p.sequences));
  const bool whole = p.dim == kDim && p.k.whole_chunks && p.v.whole_chunks;
  const auto kernel = whole ? attend_split<Matrix, kDim, true> : attend_split<Matrix, kDim, false>;
  return launch(kernel, grid, dim3(kThreads), sizeof(typename Shape<kDim>::Storage), stream, p);
}

template <class Matrix>
cudaError_t launch_matrix(const AttentionParams& p, int32_t splits, cudaStream_t stream) {
  if (p.dim <= 64) return launch_dim<Matrix, 64>(p, splits, stream);
  if (p.dim <= 128) return launch_dim<Matrix, 128>(p, splits, stream);
  return launch_dim<Matrix, 256>(p, splits, stream);
}

}  // namespace

cudaError_t launch_decode_attention(const AttentionParams& params, DType kv, int32_t splits,
                                    cudaStream_t stream) {
  return kv == DType::kF16 ? launch_matrix<F16Matrix>(params, splits, stream)
                           : launch_matrix<Bf16Matrix>(params, splits, stream);
}

}  // namespace longhaul::cuda
