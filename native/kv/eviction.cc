#include "kv/eviction.h"

#include <algorithm>

namespace longhaul {

EvictionScratch EvictionScratch::lay_out(Arena& arena, Backend& backend, const PageArrays& pages,
                                         int32_t kv_heads, int64_t capacity, int64_t shared_capacity,
                                         int32_t queries, int32_t heads) {
  EvictionScratch scratch;
  scratch.scores = arena.take(DType::kF32, {kv_heads, capacity});
  scratch.diversity = arena.take(DType::kF32, {kv_heads, capacity});
  scratch.kept = arena.take(DType::kI32, {kv_heads, capacity});
  scratch.kept_count = arena.take(DType::kI32, {kv_heads});
  scratch.layer_scores = arena.take(DType::kF32, {1, capacity});
  scratch.unused_lse = arena.take(DType::kF32, {capacity / kPageRows, 1});
  scratch.equal_weights = arena.take(DType::kF32, {kv_heads, capacity / kPageRows, 1});
  scratch.first_row = arena.take(DType::kI32, {kv_heads});
  scratch.best_ranks = arena.take(DType::kF32, {kv_heads, shared_capacity});
  const Ops& ops = backend.ops();
  const Tensor q = Tensor::dense(nullptr, DType::kF32, {queries, heads, pages.k.shape[2]});
  size_t bytes = std::max(
      {ops.score_keys_workspace({.pages = pages, .q = q, .scores = scratch.scores, .kv_heads = kv_heads}),
       ops.key_diversity_workspace({.pages = pages, .scores = scratch.scores, .kv_heads = kv_heads}),
       ops.combine_scores_workspace(
           {.pages = pages, .scores = scratch.scores, .other = scratch.diversity, .kv_heads = kv_heads}),
       ops.select_workspace({.scores = scratch.scores, .kv_heads = kv_heads, .kept = scratch.kept})});
  if (shared_capacity > 0) {
    bytes = std::max(
        bytes, ops.rank_rows_workspace({.scores = scratch.scores, .kept = scratch.kept, .kv_heads = kv_heads}));
  }
  scratch.workspace = {arena.take_bytes(bytes), bytes};
  return scratch;
}

namespace {

// Puts the mean of each row's scores over the heads in the place of all of them. Heads must hold the same rows.
Status share_scores(Backend& backend, Stream& stream, const EvictionScratch& scratch) {
  const int64_t kv_heads = scratch.scores.shape[0];
  const int64_t pages = scratch.scores.shape[1] / kPageRows;
  const Tensor& mean = scratch.layer_scores;
  // Attention states with equal sums of weights merge into their mean. A page's rows are one state, so that the
  // states are no longer than those of attention.
  LONGHAUL_TRY(run(
      backend, stream,
      MergeStatesArgs{.parts = Tensor::dense(scratch.scores.data, DType::kF32, {kv_heads, pages, 1, kPageRows}),
                      .parts_lse = scratch.equal_weights,
                      .out = Tensor::dense(mean.data, DType::kF32, {pages, 1, kPageRows}),
                      .lse = scratch.unused_lse}));
  return run(backend, stream, GatherRowsArgs{.x = mean, .index = scratch.first_row, .out = scratch.scores});
}

// What was selected stays.
Status keep_rows(Backend& backend, Stream& stream, const PageArrays& pages, const CacheView* view,
                 const EvictionScratch& scratch) {
  return run(backend, stream,
             CompactArgs{.pages = pages,
                         .view = view,
                         .kept = scratch.kept,
                         .kept_count = scratch.kept_count,
                         .kv_heads = static_cast<int32_t>(scratch.scores.shape[0])});
}

// How many deviations of the other scores it is worth to be one of the episode's own rows. Nearly all of them
// go before those of other episodes, of which the most unusual stay: a question may have gone to the wrong
// episode.
constexpr float kOwnBonus = 3;

// A token that the end of a block cuts off from what it belongs to is computed from what was kept of it:
// without the newest rows it is remembered wrong. A sixteenth of the budget, a sentence at most.
int32_t newest_kept(int32_t budget) {
  return std::min(budget / 16, 32);
}

// How unlike the mean key a row's key is and, when there is a prompt, how much the prompt attends to it.
Status score_episodic(Backend& backend, Stream& stream, const PageArrays& pages, const ScoreKeysArgs& attention,
                      const EvictionInput& input, const EvictionScratch& scratch) {
  const bool prompted = input.observers > 0;
  if (prompted) LONGHAUL_TRY(run(backend, stream, attention, scratch.workspace));
  LONGHAUL_TRY(run(backend, stream,
                   KeyDiversityArgs{.pages = pages,
                                    .view = input.view,
                                    .scores = prompted ? scratch.diversity : scratch.scores,
                                    .kv_heads = attention.kv_heads,
                                    .ignore_last = input.observers},
                   scratch.workspace));
  return run(backend, stream,
             CombineScoresArgs{.pages = pages,
                               .view = input.view,
                               .scores = scratch.scores,
                               .other = prompted ? scratch.diversity : Tensor(),
                               .spans = input.own,
                               .kv_heads = attention.kv_heads,
                               .ignore_last = input.observers,
                               .weight = 1,
                               .bonus = kOwnBonus},
             scratch.workspace);
}

}  // namespace

Status select_rows(Backend& backend, Stream& stream, const PageArrays& pages, const MemoryPolicy& policy,
                   const EvictionInput& input, const EvictionScratch& scratch, EvictionObserver* observer) {
  const int32_t kv_heads = static_cast<int32_t>(scratch.scores.shape[0]);
  SelectArgs select{.view = input.view,
                    .scores = scratch.scores,
                    .kv_heads = kv_heads,
                    .drop_last = input.observers,
                    .budget = policy.budgets[input.layer],
                    .level = policy.selection_level(),
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
      break;
    case PolicyKind::kKeyDiff:
      LONGHAUL_TRY(run(
          backend, stream,
          KeyDiversityArgs{.pages = pages, .view = input.view, .scores = scratch.scores, .kv_heads = kv_heads},
          scratch.workspace));
      break;
    case PolicyKind::kSnapKv:
    case PolicyKind::kTova:
      score.reduce = ScoreReduce::kMean;
      if (policy.kind == PolicyKind::kSnapKv) score.pool_kernel = policy.pool_kernel;
      if (input.observers == 0) {
        const int32_t window = std::min(policy.observing_tokens(), input.rows);
        score.q = input.q.slice(input.rows - window, window);
        score.window = window;
        select.protect_last = window;
      } else {
        // No block in hand (a full tail): the last tokens were fed again to observe, and their rows stay.
        select.protect_last = input.observers;
      }
      LONGHAUL_TRY(run(backend, stream, score, scratch.workspace));
      if (policy.kind == PolicyKind::kTova) {
        LONGHAUL_TRY(share_scores(backend, stream, scratch));
      }
      break;
    case PolicyKind::kEpisodic:
      LONGHAUL_TRY(score_episodic(backend, stream, pages, score, input, scratch));
      select.protect_last = newest_kept(select.budget);
      break;
    case PolicyKind::kSnapKvRefed:
    case PolicyKind::kPatchedPrompt:
    case PolicyKind::kKvZip:
      LONGHAUL_TRY(run(backend, stream, score, scratch.workspace));
      break;
  }
  if (observer != nullptr) {
    LONGHAUL_TRY(observer->on_scores(input.layer, select.scores, score.window + input.observers));
  }
  return run(backend, stream, select, scratch.workspace);
}

Status evict_layer(Backend& backend, Stream& stream, const PageArrays& pages, const MemoryPolicy& policy,
                   const EvictionInput& input, const EvictionScratch& scratch, EvictionObserver* observer) {
  LONGHAUL_TRY(select_rows(backend, stream, pages, policy, input, scratch, observer));
  return keep_rows(backend, stream, pages, input.view, scratch);
}

Status join_union(Backend& backend, Stream& stream, const CacheView* view, const MemoryPolicy& policy,
                  bool first, const EvictionScratch& scratch) {
  return run(backend, stream,
             RankRowsArgs{.view = view,
                          .scores = scratch.scores,
                          .kept = scratch.kept,
                          .kept_count = scratch.kept_count,
                          .kv_heads = static_cast<int32_t>(scratch.scores.shape[0]),
                          .level = policy.selection_level(),
                          .accumulate = !first,
                          .best = scratch.best_ranks},
             scratch.workspace);
}

Status keep_union(Backend& backend, Stream& stream, const PageArrays& pages, const CacheView* view,
                  const MemoryPolicy& policy, int32_t budget, const EvictionScratch& scratch) {
  LONGHAUL_TRY(run(backend, stream,
                   SelectArgs{.view = view,
                              .scores = scratch.best_ranks,
                              .kv_heads = static_cast<int32_t>(scratch.scores.shape[0]),
                              .budget = budget,
                              .level = policy.selection_level(),
                              .only_scored = true,
                              .kept = scratch.kept,
                              .kept_count = scratch.kept_count},
                   scratch.workspace));
  return keep_rows(backend, stream, pages, view, scratch);
}

}  // namespace longhaul
