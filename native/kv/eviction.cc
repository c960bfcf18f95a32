#include "kv/eviction.h"

#include <algorithm>

namespace longhaul {

EvictionScratch EvictionScratch::lay_out(Arena& arena, Backend& backend, const PageArrays& pages,
                                         int32_t kv_heads, int64_t capacity, int32_t queries, int32_t heads) {
  EvictionScratch scratch;
  scratch.scores = arena.take(DType::kF32, {kv_heads, capacity});
  scratch.kept = arena.take(DType::kI32, {kv_heads, capacity});
  scratch.kept_count = arena.take(DType::kI32, {kv_heads});
  const Ops& ops = backend.ops();
  const Tensor q = Tensor::dense(nullptr, DType::kF32, {queries, heads, pages.k.shape[2]});
  const size_t bytes = std::max(
      {ops.score_keys_workspace({.pages = pages, .q = q, .scores = scratch.scores, .kv_heads = kv_heads}),
       ops.key_diversity_workspace({.pages = pages, .scores = scratch.scores, .kv_heads = kv_heads}),
       ops.select_workspace({.scores = scratch.scores, .kv_heads = kv_heads, .kept = scratch.kept})});
  scratch.workspace = {arena.take_bytes(bytes), bytes};
  return scratch;
}

Status evict_layer(Backend& backend, Stream& stream, const PageArrays& pages, const MemoryPolicy& policy,
                   const EvictionInput& input, const EvictionScratch& scratch, EvictionObserver* observer) {
  const int32_t kv_heads = static_cast<int32_t>(scratch.scores.shape[0]);
  SelectArgs select{.view = input.view,
                    .scores = scratch.scores,
                    .kv_heads = kv_heads,
                    .drop_last = input.observers,
                    .budget = policy.budgets[input.layer],
                    .level = policy.level,
                    .kept = scratch.kept,
                    .kept_count = scratch.kept_count};
  ScoreKeysArgs score{.pages = pages,
                      .view = input.view,
                      .q = input.q.slice(input.rows, input.observers),
                      .scores = scratch.scores,
                      .kv_heads = kv_heads,
                      .scale = input.scale,
                      .ignore_last = input.observers};

  switch (policy.kind) {
    case PolicyKind::kFull:
      return internal_error("a full cache has no eviction");
    case PolicyKind::kStreaming:
      select.scores = Tensor();
      select.protect_first = policy.sinks;
      select.level = SelectLevel::kHead;
      break;
    case PolicyKind::kKeyDiff:
      LONGHAUL_TRY(run(
          backend, stream,
          KeyDiversityArgs{.pages = pages, .view = input.view, .scores = scratch.scores, .kv_heads = kv_heads},
          scratch.workspace));
      break;
    case PolicyKind::kSnapKv:
      score.reduce = ScoreReduce::kMean;
      score.pool_kernel = policy.pool_kernel;
      if (input.observers == 0) {
        const int32_t window = std::min(policy.window, input.rows);
        score.q = input.q.slice(input.rows - window, window);
        score.window = window;
        select.protect_last = window;
      } else {
        // No block in hand (a full tail): the last tokens were fed again to observe, and their rows stay.
        select.protect_last = input.observers;
      }
      LONGHAUL_TRY(run(backend, stream, score, scratch.workspace));
      break;
    case PolicyKind::kSnapKvRefed:
    case PolicyKind::kPatchedPrompt:
      LONGHAUL_TRY(run(backend, stream, score, scratch.workspace));
      break;
  }
  if (observer != nullptr) {
    LONGHAUL_TRY(observer->on_scores(input.layer, select.scores, score.window + input.observers));
  }
  LONGHAUL_TRY(run(backend, stream, select, scratch.workspace));
  return run(backend, stream,
             CompactArgs{.pages = pages,
                         .view = input.view,
                         .kept = scratch.kept,
                         .kept_count = scratch.kept_count,
                         .kv_heads = kv_heads});
}

}  // namespace longhaul
