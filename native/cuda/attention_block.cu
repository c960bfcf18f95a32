// Attention of prefill blocks on tensor cores (mma.sync): a block of threads holds a tile of packed query rows
// and walks over the cache in tiles of 64 rows, with the softmax kept running (FlashAttention-2, Dao 2023).
//
// Keys and values have one buffer each: while scores are computed the values of the same tile arrive, while
// values are added up the next keys do. The second block on the multiprocessor hides what is left, which two
// buffers each would keep out.
#include "cuda/attention_params.h"
#include "cuda/paged_rows.cuh"
#include "cuda/query_rows.cuh"
#include "cuda/softmax_state.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kKeys = 64;

template <int kDim>
struct Shape {
  // Two blocks of 16 rows a warp halve the reads of keys and values from shared memory; more dimensions leave
  // no room for their sums in registers.
  static constexpr int kRowBlocks = kDim == 256 ? 1 : 2;
  static constexpr int kWarpRows = kRowBlocks * 16;
  static constexpr int kRows = kThreads / 32 * kWarpRows;

  struct Storage {
    MatrixTile<kRows, kDim> q;
    MatrixTile<kKeys, kDim> k;
    MatrixTile<kKeys, kDim> v;
    // Of each row, kept here because the loop needs every register.
    int32_t visible[kRows];
    float max[kRows], sum[kRows];
    int32_t step_row[kRows];
    int32_t head[kRows];
  };
};

template <class Matrix, int kDim, bool kWhole>
__global__ void __launch_bounds__(kThreads, 2) attend_block(const __grid_constant__ AttentionParams p) {
  using S = Shape<kDim>;
  constexpr int kRowBlocks = S::kRowBlocks;
  DYNAMIC_SMEM(raw);
  auto& smem = *reinterpret_cast<typename S::Storage*>(raw);

  const QueryTile tile =
      find_query_tile(p, static_cast<int32_t>(blockIdx.y), static_cast<int32_t>(blockIdx.x), S::kRows);
  if (tile.rows == 0) return;
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int warp_row = thread / 32 * S::kWarpRows;

  HeadRows keys(p.k, tile.pages, tile.length);
  HeadRows values(p.v, tile.pages, tile.length);
  if (kWhole) {
    keys.assume_whole(kDim * 2);
    values.assume_whole(kDim * 2);
  }
  fetch_rows<kKeys, kThreads>(smem.k, keys, 0, thread);
  ptx::cp_async_commit();
  load_queries<Matrix, kThreads>(smem.q, p.q, tile, p.dim, thread);

  // Rows behind the last see what it sees: they cost nothing extra and are not written.
  if (thread < S::kRows) {
    smem.visible[thread] = tile.visible(min(thread, tile.rows - 1));
    smem.step_row[thread] = tile.step_row(thread);
    smem.head[thread] = tile.step_head(thread);
  }
  const int warp_sees_all = tile.visible(min(warp_row, tile.rows - 1));
  const int warp_sees = warp_row < tile.rows ? tile.visible(min(warp_row + S::kWarpRows, tile.rows) - 1) : 0;
  const int end = tile.visible(tile.rows - 1);

  float out[kRowBlocks][kDim / 8][4] = {};
  FragmentState state[kRowBlocks];
  ptx::cp_async_wait<0>();
  __syncthreads();
  for (int first = 0; first < end; first += kKeys) {
    fetch_rows<kKeys, kThreads>(smem.v, values, first, thread);
    ptx::cp_async_commit();

    const bool busy = first < warp_sees;
    float s[kRowBlocks][kKeys / 8][4];
    if (busy) multiply_transposed<Matrix, kWhole>(s, smem.q, warp_row, smem.k, 0, p.dim, lane);
    ptx::cp_async_wait<0>();
    __syncthreads();
    if (first + kKeys < end) fetch_rows<kKeys, kThreads>(smem.k, keys, first + kKeys, thread);
    ptx::cp_async_commit();

    if (busy) {
#pragma unroll
      for (int r = 0; r < kRowBlocks; ++r) {
        if (first + kKeys > warp_sees_all) {
          const int row = warp_row + r * 16 + lane / 4;
          const int visible[2] = {smem.visible[row], smem.visible[row + 8]};
          hide_columns(s[r], first + lane % 4 * 2, visible);
        }
        float factor[2];
        state[r].add(s[r], p.scale, factor);
#pragma unroll
        for (int c = 0; c < kDim / 8; ++c) {
#pragma unroll
          for (int i = 0; i < 4; ++i) out[r][c][i] *= factor[i / 2];
        }
      }
      multiply_add<Matrix, kWhole>(out, s, smem.v, 0, p.dim, lane);
    }
    ptx::cp_async_wait<0>();
    __syncthreads();
  }

#pragma unroll
  for (int r = 0; r < kRowBlocks; ++r) {
    state[r].finish();
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = warp_row + r * 16 + h * 8 + lane / 4;
      if (row >= tile.rows) continue;
      if (lane % 4 == 0) {
        smem.max[row] = state[r].max[h];
        smem.sum[row] = state[r].sum[h];
      }
      const int32_t step_row = smem.step_row[row];
      const int32_t head = smem.head[row];
      const float inverse = state[r].sum[h] == 0 ? 0.0f : 1.0f / state[r].sum[h];
#pragma unroll
      for (int c = 0; c < kDim / 8; ++c) {
        const int column = c * 8 + lane % 4 * 2;
        if (kWhole || column < p.dim) {
          store_pair(p.out, step_row, head, column, out[r][c][h * 2] * inverse, out[r][c][h * 2 + 1] * inverse);
        }
      }
      if (p.lse != nullptr && lane % 4 == 0) {
        p.lse[static_cast<int64_t>(step_row) * p.heads + head] =
            log2_sum(state[r].max[h], state[r].sum[h]) * kLn2;
      }
    }
  }
  if (p.state == nullptr) return;
  // By way of shared memory: addresses that are alive beside the sums above would be spilled.
  __syncthreads();
  for (int row = thread; row < tile.rows; row += kThreads) {
    const int64_t slot = static_cast<int64_t>(smem.step_row[row]) * p.heads + smem.head[row];
    store_state(p, slot, smem.max[row], smem.sum[row]);
  }
}

template <class Matrix, int kDim>
cudaError_t launch_dim(const AttentionParams& p, cudaStream_t stream) {
  using S = Shape<kDim>;
  const dim3 grid(static_cast<unsigned>(query_tiles(p.rows, p.group, p.sequences, S::kRows)),
                  static_cast<unsigned>(p.kv_heads));
  const bool whole = p.dim == kDim && p.k.whole_chunks && p.v.whole_chunks;
  const auto kernel = whole ? attend_block<Matrix, kDim, true> : attend_block<Matrix, kDim, false>;
  return launch(kernel, grid, dim3(kThreads), sizeof(typename S::Storage), stream, p);
}

template <class Matrix>
cudaError_t launch_matrix(const AttentionParams& p, cudaStream_t stream) {
  if (p.dim <= 64) return launch_dim<Matrix, 64>(p, stream);
  if (p.dim <= 128) return launch_dim<Matrix, 128>(p, stream);
  return launch_dim<Matrix, 256>(p, stream);
}

}  // namespace

cudaError_t launch_block_attention(const AttentionParams& params, DType kv, cudaStream_t stream) {
  return kv == DType::kF16 ? launch_matrix<F16Matrix>(params, stream)
                           : launch_matrix<Bf16Matrix>(params, stream);
}

}  // namespace longhaul::cuda
