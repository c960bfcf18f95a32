// combine_scores in two launches: how the scores of each chunk of rows are spread, then every row against all
// of them. Chunks are merged in order, so every block finds the same bits.
#include "core/arena.h"
#include "cuda/block_reduce.cuh"
#include "cuda/cache_rows.cuh"
#include "cuda/element.cuh"
#include "cuda/ops.h"
#include "cuda/stream.h"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kChunkRows = 2048;

// Count, mean and sum of squared distances from it: parts merge without the cancellation of plain sums of
// squares.
struct Moments {
  double count, mean, squares;
};

struct CombineParams {
  PageArrays pages;
  const CacheView* view;
  float* scores;
  const float* other;    // or null
  const int32_t* spans;  // or null
  Moments* moments;      // [2, heads, chunks]
  int64_t scores_stride, other_stride;
  int64_t span_count;
  int32_t capacity;
  int32_t ignore_last;
  int heads;
  int chunks;
  float weight;
  float bonus;
};

// x to z(x).
struct Scale {
  double mean, factor;  // 1 / deviation, or 0
};

struct CombineStorage {
  WarpValues<double> sums;
  Scale scales[2];
};

// The difference is NaN for infinities and NaN.
__device__ __forceinline__ bool is_finite(float x) {
  return x - x == 0;
}

__device__ __forceinline__ int32_t scored_rows(const CombineParams& p, int head) {
  return min(max(p.view->length[head] - p.ignore_last, 0), p.capacity);
}

__device__ __forceinline__ const float* scores_of(const CombineParams& p, int part, int head) {
  return part == 0 ? p.scores + head * p.scores_stride : p.other + head * p.other_stride;
}

// Grid (chunks, heads, parts): the scores, the others.
__global__ void __launch_bounds__(kThreads, 1) measure_spread(const __grid_constant__ CombineParams p) {
  DYNAMIC_SMEM(smem);
  auto& storage = *reinterpret_cast<CombineStorage*>(smem);
  const int thread = static_cast<int>(threadIdx.x);
  const int head = static_cast<int>(blockIdx.y);
  const int part = static_cast<int>(blockIdx.z);
  const float* x = scores_of(p, part, head);
  const int32_t begin = static_cast<int32_t>(blockIdx.x) * kChunkRows;
  const int32_t end = min(begin + kChunkRows, scored_rows(p, head));
  double count = 0;
  double sum = 0;
  for (int32_t row = begin + thread; row < end; row += kThreads) {
    if (!is_finite(x[row])) continue;
    count += 1;
    sum += static_cast<double>(x[row]);
  }
  count = block_sum(count, storage.sums);
  sum = block_sum(sum, storage.sums);
  const double mean = count > 0 ? sum / count : 0;
  double squares = 0;
  for (int32_t row = begin + thread; row < end; row += kThreads) {
    if (!is_finite(x[row])) continue;
    const double distance = static_cast<double>(x[row]) - mean;
    squares += distance * distance;
  }
  squares = block_sum(squares, storage.sums);
  if (thread == 0) {
    p.moments[(int64_t{part} * p.heads + head) * p.chunks + blockIdx.x] = {count, mean, squares};
  }
}

__device__ __forceinline__ Scale scale_of(const Moments* parts, int64_t count) {
  Moments all{0, 0, 0};
  for (int64_t i = 0; i < count; ++i) {
    const Moments part = parts[i];
    const double rows = all.count + part.count;
    if (rows == 0) continue;
    const double distance = part.mean - all.mean;
    all = {rows, all.mean + distance * (part.count / rows),
           all.squares + part.squares + distance * distance * (all.count * part.count / rows)};
  }
  return {all.mean, all.squares > 0 ? 1 / sqrt(all.squares / all.count) : 0};
}

__device__ __forceinline__ float z_score(float x, const Scale& scale) {
  if (!is_finite(x)) return x - x;  // NaN
  return static_cast<float>((static_cast<double>(x) - scale.mean) * scale.factor);
}

__device__ __forceinline__ bool lies_in_span(const CombineParams& p, int32_t position) {
  // The first span that ends behind the position.
  int64_t low = 0;
  int64_t high = p.span_count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (p.spans[2 * middle + 1] > position) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low < p.span_count && position >= p.spans[2 * low];
}

// Grid (chunks, heads).
__global__ void __launch_bounds__(kThreads, 1) combine(const __grid_constant__ CombineParams p) {
  DYNAMIC_SMEM(smem);
  auto& storage = *reinterpret_cast<CombineStorage*>(smem);
  const int thread = static_cast<int>(threadIdx.x);
  const int head = static_cast<int>(blockIdx.y);
  const int32_t begin = static_cast<int32_t>(blockIdx.x) * kChunkRows;
  const int32_t end = min(begin + kChunkRows, scored_rows(p, head));
  if (begin >= end) return;
  const int64_t parts = int64_t{p.heads} * p.chunks;
  if (thread == 0) storage.scales[0] = scale_of(p.moments, parts);
  if (thread == kWarpThreads && p.other != nullptr) storage.scales[1] = scale_of(p.moments + parts, parts);
  __syncthreads();
  float* scores = p.scores + head * p.scores_stride;
  const float* other = p.other != nullptr ? scores_of(p, 1, head) : nullptr;
  const int32_t* table = page_table_of(*p.view, head);
  const auto* positions = static_cast<const int32_t*>(p.pages.positions.data);
  for (int32_t row = begin + thread; row < end; row += kThreads) {
    float score = z_score(scores[row], storage.scales[0]);
    if (other != nullptr) score += p.weight * z_score(other[row], storage.scales[1]);
    if (p.spans != nullptr && lies_in_span(p, positions[slot_of(table, row)])) score += p.bonus;
    scores[row] = score;
  }
}

int64_t chunks_of(const CombineScoresArgs& a) {
  return divide_up(a.scores.shape[1], kChunkRows);
}

Tensor lay_out_moments(Arena& arena, const CombineScoresArgs& a) {
  return arena.take(DType::kF64, {2, a.kv_heads, chunks_of(a) * 3});
}

}  // namespace

size_t combine_scores_workspace(const CombineScoresArgs& a) {
  Arena arena;
  lay_out_moments(arena, a);
  return arena.used();
}

Status combine_scores(Stream& stream, const CombineScoresArgs& a, Workspace workspace) {
  CudaStream& cuda = cuda_stream(stream);
  Arena arena(workspace.data);
  const Tensor moments = lay_out_moments(arena, a);
  LONGHAUL_ASSERT(arena.used() <= workspace.bytes);
  const int64_t chunks = chunks_of(a);
  if (chunks == 0) return {};
  const CombineParams params{a.pages,
                             a.view,
                             a.scores.as<float>(),
                             a.other.as<float>(),
                             a.spans.as<int32_t>(),
                             moments.as<Moments>(),
                             a.scores.stride[0],
                             a.other.stride[0],
                             a.spans.shape[0],
                             static_cast<int32_t>(a.scores.shape[1]),
                             a.ignore_last,
                             a.kv_heads,
                             static_cast<int>(chunks),
                             a.weight,
                             a.bonus};
  const dim3 spread_grid = grid_of(chunks, a.kv_heads, a.other ? 2 : 1);
  cudaError_t error =
      launch(measure_spread, spread_grid, dim3(kThreads), sizeof(CombineStorage), cuda.handle(), params);
  if (error == cudaSuccess) {
    error = launch(combine, grid_of(chunks, a.kv_heads), dim3(kThreads), sizeof(CombineStorage), cuda.handle(),
                   params);
  }
  return cuda.launched(error, "combine_scores");
}

}  // namespace longhaul::cuda
