// Attention in f32 arithmetic, for f32 queries or an f32 cache, in both roles and for any head dimension.
//
// A block of four warps walks over the cache in tiles of 32 rows. For the scores a lane is a key and a warp a
// quarter of the query rows, so a row's softmax stays in one warp; for the sums over values a thread is a
// column.
#include "cuda/attention_params.h"
#include "cuda/f32_tile.cuh"
#include "cuda/softmax_state.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kKeys = 32;

template <class T, int kDim, int kRows>
struct Storage {
  alignas(16) float q[kRows][kDim];
  RowTile<T, kKeys, kDim> k;
  RowTile<T, kKeys, kDim> v;
  alignas(16) float weights[kRows][kKeys];
  float factor[kRows];
  float max[kRows];
  float sum[kRows];
  int32_t visible[kRows];
};

// Which columns and rows of the output a thread sums.
template <int kDim, int kRows>
struct OutputShare {
  static constexpr int kColumns = kDim > kThreads ? kDim / kThreads : 1;
  static constexpr int kRowParts = kDim < kThreads ? kThreads / kDim : 1;
  static constexpr int kOwnRows = kRows / kRowParts;

  static __device__ __forceinline__ int column(int thread, int i) { return thread % kDim + i * kThreads; }
  static __device__ __forceinline__ int row(int thread) { return thread / kDim * kOwnRows; }
};

// Rows [begin, end) of the cache against the tile's rows; the result goes to the parts when there are several
// splits.
template <class T, int kDim, int kRows>
__device__ __forceinline__ void attend(const AttentionParams& p, Storage<T, kDim, kRows>& smem,
                                       const QueryTile& tile, int32_t begin, int32_t end, int32_t split,
                                       int32_t splits) {
  using Share = OutputShare<kDim, kRows>;
  constexpr int kWarpRows = kRows / kWarps;
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int warp_row = thread / 32 * kWarpRows;

  const HeadRows keys(p.k, tile.pages, end);
  const HeadRows values(p.v, tile.pages, end);
  fetch_rows<kKeys, kThreads>(smem.k, keys, begin, thread);
  ptx::cp_async_commit();
  load_f32_queries<kThreads>(smem.q, p.q, tile.rows, p.dim, thread,
                             [&](int row) { return make_int2(tile.step_row(row), tile.step_head(row)); });
  // Rows behind the tile's last take part in the sums over values: with weights of zero, which stay.
  for (int i = thread; i < kRows * kKeys; i += kThreads) smem.weights[i / kKeys][i % kKeys] = 0;
  if (thread < kRows) {
    smem.factor[thread] = 1;
    smem.visible[thread] = tile.visible(thread);
  }

  float out[Share::kColumns][Share::kOwnRows] = {};
  float max[kWarpRows];
  float sum[kWarpRows];
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r) {
    max[r] = kNoScore;
    sum[r] = 0;
  }
  ptx::cp_async_wait<0>();
  __syncthreads();
  for (int32_t first = begin; first < end; first += kKeys) {
    fetch_rows<kKeys, kThreads>(smem.v, values, first, thread);
    ptx::cp_async_commit();

    if (warp_row < tile.rows) {
      float s[kWarpRows];
      multiply_rows(s, &smem.q[warp_row], smem.k, lane, p.dim);
#pragma unroll
      for (int r = 0; r < kWarpRows; ++r) {
        const int row = warp_row + r;
        if (row >= tile.rows) break;
        const float score = first + lane < smem.visible[row] ? s[r] * p.scale : kNoScore;
        float base;
        const float factor = raise_max(max[r], warp_max(score), base);
        const float weight = ptx::ex2_approx(score - base);
        sum[r] = fmaf(sum[r], factor, warp_sum(weight));
        smem.weights[row][lane] = weight;
        if (lane == 0) smem.factor[row] = factor;
      }
    }
    ptx::cp_async_wait<0>();
    __syncthreads();
    if (first + kKeys < end) fetch_rows<kKeys, kThreads>(smem.k, keys, first + kKeys, thread);
    ptx::cp_async_commit();

    const int own_row = Share::row(thread);
#pragma unroll
    for (int r = 0; r < Share::kOwnRows; ++r) {
#pragma unroll
      for (int c = 0; c < Share::kColumns; ++c) out[c][r] *= smem.factor[own_row + r];
    }
#pragma unroll 2
    for (int key = 0; key < kKeys; key += 4) {
      if (first + key >= end) break;
      float x[Share::kColumns][4];
#pragma unroll
      for (int c = 0; c < Share::kColumns; ++c) {
#pragma unroll
        for (int i = 0; i < 4; ++i) x[c][i] = smem.v.number(key + i, Share::column(thread, c));
      }
#pragma unroll
      for (int r = 0; r < Share::kOwnRows; ++r) {
        float w[4];
        unpack_chunk<float>(load16(&smem.weights[own_row + r][key]), w);
#pragma unroll
        for (int c = 0; c < Share::kColumns; ++c) {
#pragma unroll
          for (int i = 0; i < 4; ++i) out[c][r] = fmaf(w[i], x[c][i], out[c][r]);
        }
      }
    }
    ptx::cp_async_wait<0>();
    __syncthreads();
  }

#pragma unroll
  for (int r = 0; r < kWarpRows; ++r) {
    if (lane == 0) {
      smem.max[warp_row + r] = max[r];
      smem.sum[warp_row + r] = sum[r];
    }
  }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < Share::kOwnRows; ++r) {
    const int row = Share::row(thread) + r;
    if (row >= tile.rows) break;
    const int32_t step_row = tile.step_row(row);
    const int32_t head = tile.step_head(row);
    const int64_t slot = static_cast<int64_t>(step_row) * p.heads + head;
    const int64_t part = static_cast<int64_t>(split) * p.rows * p.heads + slot;
    const float total = smem.sum[row];
    const float lse = log2_sum(smem.max[row], total) * kLn2;
#pragma unroll
    for (int c = 0; c < Share::kColumns; ++c) {
      const int column = Share::column(thread, c);
      if (column >= p.dim) continue;
      const float x = total == 0 ? 0.0f : out[c][r] / total;
      if (splits > 1) {
        p.parts[part * p.dim + column] = x;
        if (column == 0) p.parts_lse[part] = lse;
      } else {
        store(p.out, step_row, head, column, x);
        if (column == 0 && p.lse != nullptr) p.lse[slot] = lse;
        if (column == 0) store_state(p, slot, smem.max[row], total);
      }
    }
  }
  __syncthreads();  // the next tile, if there is one, starts over in the same memory
}

template <class T, int kDim, int kRows>
__global__ void __launch_bounds__(kThreads, 3) attend_block(const __grid_constant__ AttentionParams p) {
  DYNAMIC_SMEM(raw);
  const QueryTile tile =
      find_query_tile(p, static_cast<int32_t>(blockIdx.y), static_cast<int32_t>(blockIdx.x), kRows);
  if (tile.rows == 0) return;
  attend(p, *reinterpret_cast<Storage<T, kDim, kRows>*>(raw), tile, 0, tile.visible(tile.rows - 1), 0, 1);
}

template <class T, int kDim, int kRows>
__global__ void __launch_bounds__(kThreads, 3) attend_split(const __grid_constant__ AttentionParams p) {
  DYNAMIC_SMEM(raw);
  const CacheView& view = p.views[blockIdx.z];
  const auto split = static_cast<int32_t>(blockIdx.x);
  const int32_t begin = split * kSplitRows;
  for (int32_t first = 0; first < view.row_count * p.group; first += kRows) {
    const QueryTile tile = query_tile_of(view, p.group, static_cast<int32_t>(blockIdx.y), first, kRows);
    // Without rows to read this still tells the merge so.
    const int32_t end = max(min(tile.visible(tile.rows - 1), begin + kSplitRows), begin);
    attend(p, *reinterpret_cast<Storage<T, kDim, kRows>*>(raw), tile, begin, end, split,
           static_cast<int32_t>(gridDim.x));
  }
}

template <class T, int kDim>
cudaError_t launch_dim(const AttentionParams& p, RowRole role, int32_t splits, cudaStream_t stream) {
  if (role == RowRole::kDecode) {
    constexpr int kRows = 8;
    const dim3 grid(static_cast<unsigned>(splits), static_cast<unsigned>(p.kv_heads),
                    static_cast<unsigned>(p.sequences));
    return launch(attend_split<T, kDim, kRows>, grid, dim3(kThreads), sizeof(Storage<T, kDim, kRows>), stream,
                  p);
  }
  constexpr int kRows = kDim == 256 ? 16 : 32;  // what 99 KiB of shared memory hold, the least a target GPU has
  const dim3 grid(static_cast<unsigned>(query_tiles(p.rows, p.group, p.sequences, kRows)),
                  static_cast<unsigned>(p.kv_heads));
  return launch(attend_block<T, kDim, kRows>, grid, dim3(kThreads), sizeof(Storage<T, kDim, kRows>), stream, p);
}

template <class T>
cudaError_t launch_type(const AttentionParams& p, RowRole role, int32_t splits, cudaStream_t stream) {
  if (p.dim <= 64) return launch_dim<T, 64>(p, role, splits, stream);
  if (p.dim <= 128) return launch_dim<T, 128>(p, role, splits, stream);
  return launch_dim<T, 256>(p, role, splits, stream);
}

}  // namespace

cudaError_t launch_f32_attention(const AttentionParams& params, DType kv, RowRole role, int32_t splits,
                                 cudaStream_t stream) {
  if (kv == DType::kF32) return launch_type<float>(params, role, splits, stream);
  if (kv == DType::kBf16) return launch_type<__nv_bfloat16>(params, role, splits, stream);
  return launch_type<__half>(params, role, splits, stream);
}

}  // namespace longhaul::cuda
