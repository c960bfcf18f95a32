// score_keys in f32 arithmetic, for f32 queries or an f32 cache: a lane is a key and a warp a quarter of the
// packed queries, in both passes.
#include "cuda/f32_tile.cuh"
#include "cuda/score_tile.cuh"
#include "cuda/softmax_state.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kKeys = 32;

template <int kDim>
constexpr int kTileRows = kDim == 256 ? 16 : 32;

template <class T, int kDim>
struct SumStorage {
  alignas(16) float q[kTileRows<kDim>][kDim];
  RowTile<T, kKeys, kDim> k[2];
  int32_t visible[kTileRows<kDim>];
};

template <class T, int kDim>
struct ReductionStorage {
  alignas(16) float q[kTileRows<kDim>][kDim];
  RowTile<T, kKeys, kDim> k;
  float lse[kTileRows<kDim>];
  float collected[kWarps][kKeys];
};

template <int kThreads, int kRows, int kDim>
__device__ __forceinline__ void load_tile(float (&to)[kRows][kDim], const ScoreParams& p, const QueryTile& tile,
                                          int thread) {
  load_f32_queries<kThreads>(to, p.q, tile.rows, p.dim, thread,
                             [&](int row) { return make_int2(tile.step_row(row), tile.step_head(row)); });
}

template <class T, int kDim>
__global__ void __launch_bounds__(kThreads, 3) sum_scores(const __grid_constant__ ScoreParams p) {
  constexpr int kRows = kTileRows<kDim>;
  constexpr int kWarpRows = kRows / kWarps;
  DYNAMIC_SMEM(raw);
  auto& smem = *reinterpret_cast<SumStorage<T, kDim>*>(raw);
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int warp_row = thread / 32 * kWarpRows;
  const auto head = static_cast<int32_t>(blockIdx.z);
  const auto split = static_cast<int32_t>(blockIdx.y);
  const QueryTile tile = score_tile(p, head, static_cast<int32_t>(blockIdx.x) * kRows, kRows);

  const int32_t begin = split * kScoreSplitRows;
  const int32_t end = min(tile.visible(tile.rows - 1), begin + kScoreSplitRows);
  if (begin >= end) {
    if (thread < tile.rows) *split_lse(p, split, head, tile.first + thread) = kNoScore;
    return;
  }
  const HeadRows keys(p.k, tile.pages, end);
  fetch_rows<kKeys, kThreads>(smem.k[0], keys, begin, thread);
  ptx::cp_async_commit();
  load_tile<kThreads>(smem.q, p, tile, thread);
  if (thread < kRows) smem.visible[thread] = tile.visible(thread);

  float max[kWarpRows];
  float sum[kWarpRows];
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r) {
    max[r] = kNoScore;
    sum[r] = 0;
  }
  int buffer = 0;
  for (int32_t first = begin; first < end; first += kKeys, buffer ^= 1) {
    ptx::cp_async_wait<0>();
    __syncthreads();  // these keys are there, and nobody reads the other buffer any more
    if (first + kKeys < end) fetch_rows<kKeys, kThreads>(smem.k[buffer ^ 1], keys, first + kKeys, thread);
    ptx::cp_async_commit();
    if (warp_row >= tile.rows) continue;

    float s[kWarpRows];
    multiply_rows(s, &smem.q[warp_row], smem.k[buffer], lane, p.dim);
    // Every lane keeps a sum of its own keys, relative to the warp's maximum.
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r) {
      const float score = first + lane < smem.visible[warp_row + r] ? s[r] * p.scale : kNoScore;
      float base;
      const float factor = raise_max(max[r], warp_max(score), base);
      sum[r] = fmaf(sum[r], factor, ptx::ex2_approx(score - base));
    }
  }
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r) {
    const float total = warp_sum(sum[r]);
    if (lane == 0 && warp_row + r < tile.rows) {
      *split_lse(p, split, head, tile.first + warp_row + r) = log2_sum(max[r], total);
    }
  }
}

template <class T, int kDim>
__global__ void __launch_bounds__(kThreads, 3) reduce_scores(const __grid_constant__ ScoreParams p) {
  constexpr int kRows = kTileRows<kDim>;
  constexpr int kWarpRows = kRows / kWarps;
  DYNAMIC_SMEM(raw);
  auto& smem = *reinterpret_cast<ReductionStorage<T, kDim>*>(raw);
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int warp = thread / 32;
  const auto head = static_cast<int32_t>(blockIdx.y);
  const int32_t first_key = static_cast<int32_t>(blockIdx.x) * kKeys;
  const int32_t scored = scored_rows(p, head);
  if (first_key >= scored) return;

  const HeadRows keys(p.k, p.view->page_table + static_cast<int64_t>(head) * p.view->max_pages, scored);
  fetch_rows<kKeys, kThreads>(smem.k, keys, first_key, thread);
  float collected = collected_start(p.mean);
  for (int32_t first = 0; first < p.queries * p.group; first += kRows) {
    load_tile<kThreads>(smem.q, p, score_tile(p, head, first, kRows), thread);
    if (thread < kRows) smem.lse[thread] = final_lse(p, head, first + thread);
    ptx::cp_async_wait_all();
    __syncthreads();
    float s[kWarpRows];
    multiply_rows(s, &smem.q[warp * kWarpRows], smem.k, lane, p.dim);
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r) {
      collected = collect(collected, fmaf(s[r], p.scale, -smem.lse[warp * kWarpRows + r]), p.mean);
    }
    __syncthreads();  // before the next queries overwrite these
  }

  smem.collected[warp][lane] = collected;
  __syncthreads();
  if (warp == 0 && first_key + lane < scored) {
#pragma unroll
    for (int w = 1; w < kWarps; ++w) {
      const float other = smem.collected[w][lane];
      collected = p.mean ? collected + other : fmaxf(collected, other);
    }
    p.scores[head * p.score_stride + first_key + lane] = final_score(p, collected);
  }
}

template <class T, int kDim>
cudaError_t launch_sums(const ScoreParams& p, cudaStream_t stream) {
  constexpr int kRows = kTileRows<kDim>;
  const int32_t rows = p.queries * p.group;
  const dim3 grid(static_cast<unsigned>((rows + kRows - 1) / kRows), static_cast<unsigned>(p.splits),
                  static_cast<unsigned>(p.kv_heads));
  return launch(sum_scores<T, kDim>, grid, dim3(kThreads), sizeof(SumStorage<T, kDim>), stream, p);
}

template <class T, int kDim>
cudaError_t launch_reduction(const ScoreParams& p, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((p.capacity + kKeys - 1) / kKeys), static_cast<unsigned>(p.kv_heads));
  return launch(reduce_scores<T, kDim>, grid, dim3(kThreads), sizeof(ReductionStorage<T, kDim>), stream, p);
}

template <class T>
cudaError_t launch_type_sums(const ScoreParams& p, cudaStream_t stream) {
  if (p.dim <= 64) return launch_sums<T, 64>(p, stream);
  if (p.dim <= 128) return launch_sums<T, 128>(p, stream);
  return launch_sums<T, 256>(p, stream);
}

template <class T>
cudaError_t launch_type_reduction(const ScoreParams& p, cudaStream_t stream) {
  if (p.dim <= 64) return launch_reduction<T, 64>(p, stream);
  if (p.dim <= 128) return launch_reduction<T, 128>(p, stream);
  return launch_reduction<T, 256>(p, stream);
}

}  // namespace

cudaError_t launch_f32_score_sums(const ScoreParams& p, DType kv, cudaStream_t stream) {
  if (kv == DType::kF32) return launch_type_sums<float>(p, stream);
  if (kv == DType::kBf16) return launch_type_sums<__nv_bfloat16>(p, stream);
  return launch_type_sums<__half>(p, stream);
}

cudaError_t launch_f32_score_reduction(const ScoreParams& p, DType kv, cudaStream_t stream) {
  if (kv == DType::kF32) return launch_type_reduction<float>(p, stream);
  if (kv == DType::kBf16) return launch_type_reduction<__nv_bfloat16>(p, stream);
  return launch_type_reduction<__half>(p, stream);
}

}  // namespace longhaul::cuda
