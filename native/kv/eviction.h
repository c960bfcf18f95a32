// Scores one layer of one sequence and keeps its best rows: called inside the layer loop, between attention and
// the next layer, so that only one layer at a time holds an uncompressed block.
#pragma once

#include "core/arena.h"
#include "core/ops.h"
#include "kv/policy.h"

namespace longhaul {

// Scratch memory of one layer's eviction, reused by all layers.
struct EvictionScratch {
  Tensor scores;      // [kv_heads, capacity] f32
  Tensor diversity;   // [kv_heads, capacity] f32: kEpisodic, beside the attention of a prompt
  Tensor kept;        // [kv_heads, capacity] i32
  Tensor kept_count;  // [kv_heads] i32
  // kTova, whose heads share their scores. Memory of a backend is zeroed, and nobody writes to the last two.
  Tensor layer_scores;   // [1, capacity] f32
  Tensor unused_lse;     // [capacity / page, 1] f32
  Tensor equal_weights;  // [kv_heads, capacity / page, 1] f32, zero
  Tensor first_row;      // [kv_heads] i32, zero
  Tensor best_ranks;     // [kv_heads, shared_capacity] f32, of keep_union
  Workspace workspace;

  // For heads of up to `capacity` rows, whole pages, and up to `queries` observing rows of `heads` query heads;
  // of them up to `shared_capacity` where several policies select.
  static EvictionScratch lay_out(Arena& arena, Backend& backend, const PageArrays& pages, int32_t kv_heads,
                                 int64_t capacity, int64_t shared_capacity, int32_t queries, int32_t heads);
};

// The step's rows of this sequence: `rows` kept ones, then `observers` that are dropped again. `rows` is 0
// where `q` has the observers only, as with a full tail that is evicted alone, or one of several prompts behind
// a block.
struct EvictionInput {
  const CacheView* view = nullptr;  // this layer, device memory; the rows are appended already
  Tensor q;                         // [rows + observers, heads, dim], after RoPE
  Tensor own;                       // [spans, 2] i32, kEpisodic: MemoryPolicy::own; absent when there are none
  int32_t layer = 0;
  int32_t rows = 0;
  int32_t observers = 0;
  float scale = 0;
};

// What the layer's scores were, for whoever watches (golden cases, eval). Called before rows move.
class EvictionObserver {
 public:
  virtual ~EvictionObserver() = default;
  // All rows of a head but the last `unscored_last` have a score; null scores: the policy needs none.
  virtual Status on_scores(int32_t layer, const Tensor& scores, int32_t unscored_last) = 0;
};

// Scores the layer's rows and leaves those that the policy keeps in scratch.kept and kept_count. No row moves.
Status select_rows(Backend& backend, Stream& stream, const PageArrays& pages, const MemoryPolicy& policy,
                   const EvictionInput& input, const EvictionScratch& scratch, EvictionObserver* observer);

// select_rows, then only those rows stay.
Status evict_layer(Backend& backend, Stream& stream, const PageArrays& pages, const MemoryPolicy& policy,
                   const EvictionInput& input, const EvictionScratch& scratch, EvictionObserver* observer);

// Several policies over one cache: after each select_rows of one of them, its selection joins the union;
// `first` begins a new one. The policies have one level.
Status join_union(Backend& backend, Stream& stream, const CacheView* view, const MemoryPolicy& policy,
                  bool first, const EvictionScratch& scratch);
// Only the union's rows stay, at most `budget` a head as the policies' level counts: those with the best rank
// in any of the selections, ties to the lowest (head, row).
Status keep_union(Backend& backend, Stream& stream, const PageArrays& pages, const CacheView* view,
                  const MemoryPolicy& policy, int32_t budget, const EvictionScratch& scratch);

}  // namespace longhaul
