// key_diversity in two launches: sums of unit keys over chunks of pages, then each key against the sum of all.
// Chunks are added in order, so every block finds the same bits.
#include "core/arena.h"
#include "cuda/cache_rows.cuh"
#include "cuda/element.cuh"
#include "cuda/ops.h"
#include "cuda/stream.h"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kChunkRows = 16 * kPageRows;
constexpr int kWidth = 8;  // columns of a lane: a warp spans the longest key

template <class T>
struct DiversityParams {
  const CacheView* view;
  const T* k;
  float* scores;
  float* sums;  // [heads, chunks, dim], of unit keys
  int64_t scores_stride;
  int32_t capacity;
  int32_t ignore_last;
  int chunks;
  int dim;
  int lanes;  // of a key, a power of two
};

struct DiversityStorage {
  WarpValues<float> sums;
  float columns[kThreads * kWidth];
};

// A lane's columns of a key; zeros behind the end.
template <bool kAligned, class T>
__device__ __forceinline__ void load_key(const T* key, int column, int dim, float (&out)[kWidth]) {
  if constexpr (kAligned) {
    if (column < dim) {
      load_floats(key + column, out);
      return;
    }
  }
#pragma unroll
  for (int i = 0; i < kWidth; ++i) out[i] = !kAligned && column + i < dim ? to_float(key[column + i]) : 0.0f;
}

template <class T>
__device__ __forceinline__ int32_t scored_rows(const DiversityParams<T>& p, int head) {
  return min(max(p.view->length[head] - p.ignore_last, 0), p.capacity);
}

// Grid (chunks, heads); a group of lanes takes a row.
template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads, 1) sum_unit_keys(const DiversityParams<T> p) {
  DYNAMIC_SMEM(smem);
  auto& storage = *reinterpret_cast<DiversityStorage*>(smem);
  const int thread = static_cast<int>(threadIdx.x);
  const int head = static_cast<int>(blockIdx.y);
  const int32_t begin = static_cast<int32_t>(blockIdx.x) * kChunkRows;
  const int32_t end = min(begin + kChunkRows, scored_rows(p, head));
  if (begin >= end) return;
  const int32_t* table = page_table_of(*p.view, head);
  const int group = thread / p.lanes;
  const int groups = kThreads / p.lanes;
  const int column = thread % p.lanes * kWidth;
  float sums[kWidth] = {};
  for (int32_t row = begin; row < end; row += groups) {
    float key[kWidth] = {};
    if (row + group < end) load_key<kAligned>(p.k + slot_of(table, row + group) * p.dim, column, p.dim, key);
    float squares = 0;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) squares += key[i] * key[i];
    squares = warp_sum(squares, p.lanes);
    const float factor = squares > 0 ? 1.0f / sqrtf(squares) : 0.0f;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) sums[i] += key[i] * factor;
  }
#pragma unroll
  for (int i = 0; i < kWidth; ++i) storage.columns[thread * kWidth + i] = sums[i];
  __syncthreads();
  float* out = p.sums + (int64_t{head} * p.chunks + blockIdx.x) * p.dim;
  for (int d = thread; d < p.dim; d += kThreads) {
    float sum = 0;
    for (int g = 0; g < groups; ++g) sum += storage.columns[g * p.lanes * kWidth + d];
    out[d] = sum;
  }
}

// As above.
template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads, 1) score_diversity(const DiversityParams<T> p) {
  DYNAMIC_SMEM(smem);
  auto& storage = *reinterpret_cast<DiversityStorage*>(smem);
  const int thread = static_cast<int>(threadIdx.x);
  const int head = static_cast<int>(blockIdx.y);
  const int32_t rows = scored_rows(p, head);
  const int32_t begin = static_cast<int32_t>(blockIdx.x) * kChunkRows;
  const int32_t end = min(begin + kChunkRows, rows);
  if (begin >= end) return;
  const int32_t* table = page_table_of(*p.view, head);

  const int chunks = (rows + kChunkRows - 1) / kChunkRows;
  float squares = 0;
  for (int d = thread; d < p.lanes * kWidth; d += kThreads) {
    float sum = 0;
    if (d < p.dim) {
      const float* sums = p.sums + int64_t{head} * p.chunks * p.dim + d;
      for (int chunk = 0; chunk < chunks; ++chunk) sum += sums[int64_t{chunk} * p.dim];
    }
    storage.columns[d] = sum;
    squares += sum * sum;
  }
  const float anchor_norm = sqrtf(block_sum(squares, storage.sums));

  const int group = thread / p.lanes;
  const int groups = kThreads / p.lanes;
  const int column = thread % p.lanes * kWidth;
  float anchor[kWidth];
#pragma unroll
  for (int i = 0; i < kWidth; ++i) anchor[i] = storage.columns[column + i];
  for (int32_t row = begin; row < end; row += groups) {
    float key[kWidth] = {};
    if (row + group < end) load_key<kAligned>(p.k + slot_of(table, row + group) * p.dim, column, p.dim, key);
    float key_squares = 0;
    float dot = 0;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      key_squares += key[i] * key[i];
      dot += key[i] * anchor[i];
    }
    key_squares = warp_sum(key_squares, p.lanes);
    dot = warp_sum(dot, p.lanes);
    if (row + group >= end || column != 0) continue;
    const float norms = sqrtf(key_squares) * anchor_norm;
    p.scores[head * p.scores_stride + row + group] = norms > 0 ? -dot / norms : 0.0f;
  }
}

int64_t chunks_of(const KeyDiversityArgs& a) {
  return divide_up(a.scores.shape[1], kChunkRows);
}

Tensor lay_out_sums(Arena& arena, const KeyDiversityArgs& a) {
  return arena.take(DType::kF32, {a.kv_heads, chunks_of(a), a.pages.k.shape[2]});
}

}  // namespace

size_t key_diversity_workspace(const KeyDiversityArgs& a) {
  Arena arena;
  lay_out_sums(arena, a);
  return arena.used();
}

Status key_diversity(Stream& stream, const KeyDiversityArgs& a, Workspace workspace) {
  CudaStream& cuda = cuda_stream(stream);
  Arena arena(workspace.data);
  const Tensor sums = lay_out_sums(arena, a);
  LONGHAUL_ASSERT(arena.used() <= workspace.bytes);
  const int64_t chunks = chunks_of(a);
  if (chunks == 0) return {};
  const int64_t dim = a.pages.k.shape[2];
  int lanes = 1;
  while (lanes * kWidth < dim) lanes *= 2;
  const bool aligned = dim % kWidth == 0 && rows_aligned(a.pages.k, kWidth);
  const cudaError_t error = visit_storage(a.pages.k.dtype, [&](auto element) {
    using T = typename decltype(element)::Type;
    const DiversityParams<T> params{a.view,
                                    a.pages.k.as<T>(),
                                    a.scores.as<float>(),
                                    sums.as<float>(),
                                    a.scores.stride[0],
                                    static_cast<int32_t>(a.scores.shape[1]),
                                    a.ignore_last,
                                    static_cast<int>(chunks),
                                    static_cast<int>(dim),
                                    lanes};
    const dim3 grid = grid_of(chunks, a.kv_heads);
    const auto sum = aligned ? sum_unit_keys<T, true> : sum_unit_keys<T, false>;
    const auto score = aligned ? score_diversity<T, true> : score_diversity<T, false>;
    const cudaError_t first =
        launch(sum, grid, dim3(kThreads), sizeof(DiversityStorage), cuda.handle(), params);
    if (first != cudaSuccess) return first;
    return launch(score, grid, dim3(kThreads), sizeof(DiversityStorage), cuda.handle(), params);
  });
  return cuda.launched(error, "key_diversity");
}

}  // namespace longhaul::cuda
