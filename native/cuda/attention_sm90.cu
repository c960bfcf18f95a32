// Attention of prefill blocks on sm_90a: a warp fetches pages by TMA into two stages of keys and of values, two
// warpgroups take 64 packed query rows each through wgmma (FlashAttention-3, Shah et al. 2024).
//
// Each warpgroup starts the scores of the next keys before it computes the softmax of these, and the two take
// turns in starting products, so that the tensor cores work for one while the other computes exponentials.
#include "cuda/attention_params.h"
#include "cuda/hopper.cuh"
#include "cuda/query_rows.cuh"
#include "cuda/softmax_state.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kKeys = 128;
constexpr int kStages = 2;
constexpr int kConsumers = 2;
constexpr int kWarpgroupRows = 64;
constexpr int kRows = kConsumers * kWarpgroupRows;
constexpr int kThreads = 128 * (1 + kConsumers);
constexpr int kConsumerThreads = 128 * kConsumers;
constexpr int kConsumerWarps = 4 * kConsumers;
constexpr int kPanel = 64;  // columns of 16-bit numbers in 128 bytes, a row of the swizzle
constexpr int kTilePages = kKeys / kPageRows;

// Named barriers.
constexpr int kQueriesLoaded = 1;  // and the next, one a warpgroup
constexpr int kTurn = 3;           // and the next
constexpr int kValuesCleared = 5;

// Tiles are stored as panels of 64 columns.
template <int kDim>
struct Storage {
  static constexpr int kPanels = kDim / kPanel;
  uint16_t q[kPanels][kRows * kPanel];
  uint16_t k[kStages][kPanels][kKeys * kPanel];
  uint16_t v[kStages][kPanels][kKeys * kPanel];
  ptx::Mbar keys_full[kStages], keys_empty[kStages];
  ptx::Mbar values_full[kStages], values_empty[kStages];
};

// Where tile `index` lies in its ring, and the parity of the phase that fills it.
__device__ __forceinline__ int stage_of(int index) {
  return index % kStages;
}
__device__ __forceinline__ uint32_t parity_of(int index) {
  return static_cast<uint32_t>(index / kStages & 1);
}

// Starts the pages of one tile on their way, a lane a page. Pages that the head does not hold are left out:
// what lies in their place is hidden (keys) or cleared (values).
template <int kDim>
__device__ __forceinline__ void fetch_tile(uint16_t (&to)[kStages][kDim / kPanel][kKeys * kPanel],
                                           const TensorMap& map, ptx::Mbar* full, ptx::Mbar* empty,
                                           const QueryTile& tile, int index, int lane) {
  const int stage = stage_of(index);
  const int first_page = index * kTilePages;
  const int pages = min((tile.length + kPageRows - 1) / kPageRows - first_page, kTilePages);
  const int32_t id = lane < pages ? tile.pages[first_page + lane] : 0;
  ptx::mbar_wait(&empty[stage], parity_of(index) ^ 1);  // passes at once the first time round
  if (lane == 0) ptx::mbar_expect(&full[stage], pages * kPageRows * kDim * 2);
  __syncwarp();
  if (lane < pages) {
#pragma unroll
    for (int panel = 0; panel < kDim / kPanel; ++panel) {
      ptx::tma_load_2d(to[stage][panel] + lane * kPageRows * kPanel, &map, &full[stage], panel * kPanel,
                       id * kPageRows);
    }
  }
}

template <int kDim>
__device__ __forceinline__ void produce(Storage<kDim>& smem, const TensorMap& keys, const TensorMap& values,
                                        const QueryTile& tile, int tiles, int lane) {
  for (int i = 0; i <= tiles; ++i) {
    if (i < tiles) fetch_tile<kDim>(smem.k, keys, smem.keys_full, smem.keys_empty, tile, i, lane);
    if (i > 0) fetch_tile<kDim>(smem.v, values, smem.values_full, smem.values_empty, tile, i - 1, lane);
  }
}

// One warpgroup's 64 rows.
template <class Matrix, int kDim>
struct Consumer {
  static constexpr ptx::WgmmaType kType = Matrix::kIsBf16 ? ptx::WgmmaType::kBf16 : ptx::WgmmaType::kF16;
  Storage<kDim>& smem;
  int warpgroup;
  int thread;  // in the warpgroup

  __device__ __forceinline__ void load_queries(const RowTensor& q, const QueryTile& tile) {
    constexpr int kChunks = kDim / 8;
#pragma unroll 4
    for (int i = thread; i < kWarpgroupRows * kChunks; i += 128) {
      const int row = warpgroup * kWarpgroupRows + i / kChunks;
      const int chunk = i % kChunks;
      Bytes16 x{0, 0, 0, 0};
      if (row < tile.rows) {
        x = load_bf16_chunk(at<const __nv_bfloat16>(q, tile.step_row(row), tile.step_head(row)), q.whole_chunks,
                            chunk, kDim);
      }
      x.x = Matrix::from_bf16(x.x);
      x.y = Matrix::from_bf16(x.y);
      x.z = Matrix::from_bf16(x.z);
      x.w = Matrix::from_bf16(x.w);
      store16(smem.q[chunk / 8] + row * kPanel + (chunk % 8 ^ (row & 7)) * 8, x);
    }
    ptx::fence_async_shared();
    ptx::bar_sync(kQueriesLoaded + warpgroup, 128);
  }

  // Starts s = q k^T for tile `index`.
  __device__ __forceinline__ void start_scores(float (&s)[kKeys / 2], int index) {
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
      const int panel = k / 4;
      const int column = k % 4 * 16;
      ptx::wgmma_m64k16<kType, kKeys>(
          s, ptx::desc128(smem.q[panel] + warpgroup * kWarpgroupRows * kPanel + column),
          ptx::desc128(smem.k[stage_of(index)][panel] + column), k > 0);
    }
    ptx::wgmma_commit();
  }

  // Starts out += weights * values of tile `index`.
  __device__ __forceinline__ void start_values(float (&out)[kDim / 2], const uint32_t (&weights)[kKeys / 16][4],
                                               int index) {
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
      ptx::wgmma_m64k16<kType, kDim, true>(
          out, weights[k],
          ptx::desc128_transposed(smem.v[stage_of(index)][0] + k * 16 * kPanel, kKeys * kPanel * 2), true);
    }
    ptx::wgmma_commit();
  }

  __device__ __forceinline__ void release(ptx::Mbar* empty, int index) {
    if (thread % 32 == 0) ptx::mbar_arrive(&empty[stage_of(index)]);
  }

  // Zeros the rows of values that the head does not hold, all warpgroups together: a weight of zero does not
  // hide NaN.
  __device__ __forceinline__ void clear_values(int from, int index) {
    constexpr int kChunks = kPanel / 8;
    uint16_t(&v)[kDim / kPanel][kKeys * kPanel] = smem.v[stage_of(index)];
    for (int i = warpgroup * 128 + thread; i < (kKeys - from) * kChunks; i += kConsumerThreads) {
      const int row = from + i / kChunks;
#pragma unroll
      for (int panel = 0; panel < kDim / kPanel; ++panel) {
        store16(v[panel] + row * kPanel + i % kChunks * 8, Bytes16{0, 0, 0, 0});
      }
    }
    ptx::fence_async_shared();
    ptx::bar_sync(kValuesCleared, kConsumerThreads);
  }
};

template <class Matrix>
__device__ __forceinline__ void pack_weights(uint32_t (&weights)[kKeys / 16][4],
                                             const float (&s)[kKeys / 8][4]) {
#pragma unroll
  for (int k = 0; k < kKeys / 16; ++k) {
    weights[k][0] = Matrix::pack(s[k * 2][0], s[k * 2][1]);
    weights[k][1] = Matrix::pack(s[k * 2][2], s[k * 2][3]);
    weights[k][2] = Matrix::pack(s[k * 2 + 1][0], s[k * 2 + 1][1]);
    weights[k][3] = Matrix::pack(s[k * 2 + 1][2], s[k * 2 + 1][3]);
  }
}

template <class Matrix, int kDim>
__device__ __forceinline__ void consume(Storage<kDim>& smem, const AttentionParams& p, const QueryTile& tile,
                                        int tiles, int warpgroup, int thread) {
  Consumer<Matrix, kDim> consumer{smem, warpgroup, thread};
  consumer.load_queries(p.q, tile);

  const int lane = thread % 32;
  const int warp_row = warpgroup * kWarpgroupRows + thread / 32 * 16;
  // Rows behind the last see what it sees.
  const int visible[2] = {tile.visible(min(warp_row + lane / 4, tile.rows - 1)),
                          tile.visible(min(warp_row + lane / 4 + 8, tile.rows - 1))};
  // Of the whole tile, not of the warp, so that all take the branch around the mask together.
  const int all_see = tile.visible(0);

  float out[kDim / 2] = {};
  FragmentState state;
  float s[kKeys / 8][4];
  auto& scores = reinterpret_cast<float(&)[kKeys / 2]>(s);
  uint32_t weights[kKeys / 16][4];
  float factor[2];
  const auto add_scores = [&](int index) {
    if ((index + 1) * kKeys > all_see) hide_columns(s, index * kKeys + lane % 4 * 2, visible);
    state.add(s, p.scale, factor);
  };

  if (tiles > 0) {
    ptx::mbar_wait(&smem.keys_full[0], 0);
    consumer.start_scores(scores, 0);
    ptx::wgmma_wait<0>();
    consumer.release(smem.keys_empty, 0);
    add_scores(0);
    pack_weights<Matrix>(weights, s);

    // Only where somebody takes the turn: else the block would end with an arrival that nobody waits for.
    if (warpgroup == 1 && tiles > 1) ptx::bar_arrive(kTurn, kConsumerThreads);
    for (int i = 1; i < tiles; ++i) {
      ptx::mbar_wait(&smem.keys_full[stage_of(i)], parity_of(i));
      ptx::bar_sync(kTurn + warpgroup, kConsumerThreads);
      consumer.start_scores(scores, i);
      ptx::mbar_wait(&smem.values_full[stage_of(i - 1)], parity_of(i - 1));
      consumer.start_values(out, weights, i - 1);
      // The first warpgroup does not wait for a turn after the last.
      if (warpgroup == 0 || i + 1 < tiles) ptx::bar_arrive(kTurn + 1 - warpgroup, kConsumerThreads);
      ptx::wgmma_wait<1>();
      consumer.release(smem.keys_empty, i);
      add_scores(i);
      ptx::wgmma_wait<0>();
      consumer.release(smem.values_empty, i - 1);
#pragma unroll
      for (int j = 0; j < kDim / 2; ++j) out[j] *= factor[j / 2 % 2];
      pack_weights<Matrix>(weights, s);
    }

    const int last = tiles - 1;
    ptx::mbar_wait(&smem.values_full[stage_of(last)], parity_of(last));
    if (tiles * kKeys > tile.length) consumer.clear_values(tile.length - last * kKeys, last);
    consumer.start_values(out, weights, last);
    ptx::wgmma_wait<0>();
  }

  state.finish();
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = warp_row + lane / 4 + h * 8;
    if (row >= tile.rows) continue;
    const int32_t step_row = tile.step_row(row);
    const int32_t head = tile.step_head(row);
    const float inverse = state.sum[h] == 0 ? 0.0f : 1.0f / state.sum[h];
#pragma unroll
    for (int c = 0; c < kDim / 8; ++c) {
      store_pair(p.out, step_row, head, c * 8 + lane % 4 * 2, out[c * 4 + h * 2] * inverse,
                 out[c * 4 + h * 2 + 1] * inverse);
    }
    if (lane % 4 == 0) {
      const int64_t slot = static_cast<int64_t>(step_row) * p.heads + head;
      if (p.lse != nullptr) p.lse[slot] = log2_sum(state.max[h], state.sum[h]) * kLn2;
      store_state(p, slot, state.max[h], state.sum[h]);
    }
  }
}

template <class Matrix, int kDim>
__global__ void __launch_bounds__(kThreads, 1)
    attend_block_sm90(const __grid_constant__ TensorMap keys, const __grid_constant__ TensorMap values,
                      const __grid_constant__ AttentionParams p) {
  DYNAMIC_SMEM(raw);
  auto& smem = *reinterpret_cast<Storage<kDim>*>(raw);
  const QueryTile tile =
      find_query_tile(p, static_cast<int32_t>(blockIdx.y), static_cast<int32_t>(blockIdx.x), kRows);
  if (tile.rows == 0) return;
  const int tiles = (tile.visible(tile.rows - 1) + kKeys - 1) / kKeys;

  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      ptx::mbar_init(&smem.keys_full[i], 1);
      ptx::mbar_init(&smem.values_full[i], 1);
      ptx::mbar_init(&smem.keys_empty[i], kConsumerWarps);
      ptx::mbar_init(&smem.values_empty[i], kConsumerWarps);
    }
    ptx::mbar_fence_init();
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    ptx::reg_dealloc<24>();
    if (threadIdx.x < 32) produce<kDim>(smem, keys, values, tile, tiles, static_cast<int>(threadIdx.x));
  } else {
    ptx::reg_alloc<240>();
    consume<Matrix, kDim>(smem, p, tile, tiles, static_cast<int>(threadIdx.x) / 128 - 1,
                          static_cast<int>(threadIdx.x) % 128);
  }
}

// Boxes of one page's rows and one panel's columns.
cudaError_t page_map(const Tensor& pages, TensorMap& map) {
  return encode_tensor_map({.element = pages.dtype == DType::kF16 ? TensorElement::kF16 : TensorElement::kBf16,
                            .rank = 2,
                            .base = pages.data,
                            .size = {pages.shape[2], pages.shape[0] * kPageRows},
                            .stride_bytes = {0, pages.shape[2] * 2},
                            .box = {kPanel, kPageRows},
                            .swizzle_bytes = 128},
                           map);
}

template <class Matrix, int kDim>
cudaError_t launch_dim(const AttentionParams& p, const PageArrays& pages, cudaStream_t stream) {
  TensorMap keys, values;
  if (cudaError_t e = page_map(pages.k, keys); e != cudaSuccess) return e;
  if (cudaError_t e = page_map(pages.v, values); e != cudaSuccess) return e;
  const dim3 grid(static_cast<unsigned>(query_tiles(p.rows, p.group, p.sequences, kRows)),
                  static_cast<unsigned>(p.kv_heads));
  return launch(attend_block_sm90<Matrix, kDim>, grid, dim3(kThreads), sizeof(Storage<kDim>), stream, keys,
                values, p);
}

}  // namespace

cudaError_t launch_block_attention_sm90(const AttentionParams& params, const PageArrays& pages,
                                        cudaStream_t stream) {
  const bool f16 = pages.k.dtype == DType::kF16;
  if (params.dim == 64) {
    return f16 ? launch_dim<F16Matrix, 64>(params, pages, stream)
               : launch_dim<Bf16Matrix, 64>(params, pages, stream);
  }
  return f16 ? launch_dim<F16Matrix, 128>(params, pages, stream)
             : launch_dim<Bf16Matrix, 128>(params, pages, stream);
}

}  // namespace longhaul::cuda
