// score_keys on the host: two passes over the keys, a merge of split sums between them when there are splits,
// pooling at the end when there is a kernel.
#include <numbers>

#include "core/arena.h"
#include "cuda/ops.h"
#include "cuda/scoring_params.h"
#include "cuda/stream.h"

namespace longhaul::cuda {
namespace {

int64_t packed_rows(const ScoreKeysArgs& a) {
  return a.q.shape[0] * (a.q.shape[1] / a.kv_heads);
}

// Splits that hold what queries see: the scored rows and the window behind them.
int64_t splits_of_scores(int64_t capacity, int64_t window) {
  return (capacity + window + kScoreSplitRows - 1) / kScoreSplitRows;
}

struct ScoreWorkspace {
  Tensor split_lse;  // [splits, kv_heads, packed rows]
  Tensor lse;        // [kv_heads, packed rows]
  Tensor scores;     // [kv_heads, capacity] before pooling

  // The same for every window and kernel, of which the caller need not know when it asks for the size.
  static ScoreWorkspace lay_out(Arena& arena, const ScoreKeysArgs& a) {
    const int64_t capacity = a.scores.shape[1];
    const int64_t splits = splits_of_scores(capacity, a.q.shape[0]);
    return {arena.take(DType::kF32, {splits, a.kv_heads, packed_rows(a)}),
            arena.take(DType::kF32, {a.kv_heads, packed_rows(a)}),
            arena.take(DType::kF32, {a.kv_heads, capacity})};
  }
};

}  // namespace

size_t score_keys_workspace(const ScoreKeysArgs& a) {
  Arena arena;
  ScoreWorkspace::lay_out(arena, a);
  return arena.used();
}

Status score_keys(Stream& stream, const ScoreKeysArgs& a, Workspace workspace) {
  LONGHAUL_ASSERT(workspace.bytes >= score_keys_workspace(a));
  Arena arena(workspace.data);
  const ScoreWorkspace scratch = ScoreWorkspace::lay_out(arena, a);
  const bool pooled = a.pool_kernel > 1;
  ScoreParams p;
  p.k = Pages(a.pages.k);
  p.view = a.view;
  p.q = RowTensor(a.q);
  p.queries = static_cast<int32_t>(a.q.shape[0]);
  p.kv_heads = a.kv_heads;
  p.group = static_cast<int32_t>(a.q.shape[1] / a.kv_heads);
  p.dim = static_cast<int32_t>(a.q.shape[2]);
  p.ignore_last = a.ignore_last;
  p.window = a.window;
  p.scale = a.scale * std::numbers::log2e_v<float>;
  p.mean = a.reduce == ScoreReduce::kMean;
  p.capacity = a.scores.shape[1];
  p.splits = static_cast<int32_t>(splits_of_scores(p.capacity, a.window));
  p.lse = scratch.lse.as<float>();
  p.split_lse = p.splits > 1 ? scratch.split_lse.as<float>() : p.lse;
  p.scores = (pooled ? scratch.scores : a.scores).as<float>();
  p.score_stride = (pooled ? scratch.scores : a.scores).stride[0];
  if (p.capacity == 0) return Status();

  CudaStream& cuda = cuda_stream(stream);
  const DType kv = a.pages.k.dtype;
  const bool f32 = a.q.dtype == DType::kF32 || kv == DType::kF32;
  const auto sums = f32 ? launch_f32_score_sums : launch_score_sums;
  const auto reduction = f32 ? launch_f32_score_reduction : launch_score_reduction;
  LONGHAUL_TRY(cuda.launched(sums(p, kv, cuda.handle()), "score_keys"));
  if (p.splits > 1) LONGHAUL_TRY(cuda.launched(launch_merge_score_sums(p, cuda.handle()), "score_keys"));
  LONGHAUL_TRY(cuda.launched(reduction(p, kv, cuda.handle()), "score_keys"));
  if (!pooled) return Status();
  return cuda.launched(
      launch_pool_scores(p, a.pool_kernel, a.scores.as<float>(), a.scores.stride[0], cuda.handle()),
      "score_keys");
}

}  // namespace longhaul::cuda
