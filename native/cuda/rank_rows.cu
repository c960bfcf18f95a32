// rank_rows: a kept row's rank is how many kept rows stand in front of it, so it is counted: all pairs, but
// only of rows that were chosen, and nothing has to be sorted.
#include <algorithm>

#include "cuda/cache_rows.cuh"
#include "cuda/element.cuh"
#include "cuda/ops.h"
#include "cuda/radix_select.cuh"
#include "cuda/stream.h"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 256;

struct RankParams {
  const CacheView* view;
  const float* scores;
  const int32_t* kept;
  const int32_t* kept_count;
  float* best;
  int64_t scores_stride;
  int64_t kept_stride;
  int64_t best_stride;
  int32_t best_capacity;
  int kv_heads;
  bool per_head;
};

struct RankStorage {
  uint32_t keys[kThreads];
};

// Grid (rows, heads).
__global__ void __launch_bounds__(kThreads, 1) rank_clear(const RankParams p) {
  const int head = static_cast<int>(blockIdx.y);
  const int row = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (row < min(p.view->length[head], p.best_capacity)) {
    p.best[head * p.best_stride + row] = __uint_as_float(0x7fc00000u);  // NaN
  }
}

// Grid (kept rows, heads). A thread ranks one row.
__global__ void __launch_bounds__(kThreads, 1) rank_count(const RankParams p) {
  DYNAMIC_SMEM(smem);
  auto& storage = *reinterpret_cast<RankStorage*>(smem);
  const int thread = static_cast<int>(threadIdx.x);
  const int head = static_cast<int>(blockIdx.y);
  const int first = static_cast<int>(blockIdx.x) * kThreads;
  const int count = p.kept_count[head];
  if (first >= count) return;
  const int mine = first + thread;
  const auto key_of = [&](int h, int i) {
    return order_key(p.scores[h * p.scores_stride + p.kept[h * p.kept_stride + i]]);
  };
  const uint32_t key = mine < count ? key_of(head, mine) : 0;
  int32_t rank = 0;
  const int last_head = p.per_head ? head + 1 : p.kv_heads;
  for (int h = p.per_head ? head : 0; h < last_head; ++h) {
    const int others = p.kept_count[h];
    for (int tile = 0; tile < others; tile += kThreads) {
      __syncthreads();  // the tile before has been read
      if (tile + thread < others) storage.keys[thread] = key_of(h, tile + thread);
      __syncthreads();
      const int size = min(kThreads, others - tile);
      for (int i = 0; i < size; ++i) {
        const bool earlier = h < head || (h == head && tile + i < mine);
        rank += storage.keys[i] > key || (earlier && storage.keys[i] == key) ? 1 : 0;
      }
    }
  }
  if (mine >= count) return;
  float& best = p.best[head * p.best_stride + p.kept[head * p.kept_stride + mine]];
  best = fmaxf(best, -static_cast<float>(rank));  // of NaN and a number the number
}

}  // namespace

size_t rank_rows_workspace(const RankRowsArgs&) {
  return 0;
}

Status rank_rows(Stream& stream, const RankRowsArgs& a, Workspace) {
  CudaStream& cuda = cuda_stream(stream);
  const RankParams params{a.view,
                          a.scores.as<float>(),
                          a.kept.as<int32_t>(),
                          a.kept_count.as<int32_t>(),
                          a.best.as<float>(),
                          a.scores.stride[0],
                          a.kept.stride[0],
                          a.best.stride[0],
                          static_cast<int32_t>(a.best.shape[1]),
                          a.kv_heads,
                          a.level == SelectLevel::kHead};
  if (!a.accumulate && a.best.shape[1] > 0) {
    LONGHAUL_TRY(cuda.launched(launch(rank_clear, grid_of(divide_up(a.best.shape[1], kThreads), a.kv_heads),
                                      dim3(kThreads), 0, cuda.handle(), params),
                               "rank_rows"));
  }
  if (a.kept.shape[1] == 0) return {};
  return cuda.launched(launch(rank_count, grid_of(divide_up(a.kept.shape[1], kThreads), a.kv_heads),
                              dim3(kThreads), sizeof(RankStorage), cuda.handle(), params),
                       "rank_rows");
}

}  // namespace longhaul::cuda
