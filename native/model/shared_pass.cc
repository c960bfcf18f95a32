// A pass whose block several prompts rate: all rows share the products with weights, and each prompt attends to
// the cache by itself.
#include "model/transformer.h"

namespace longhaul {

Status Transformer::forward(PagePool& pool, const SharedPass& pass) {
  // The block, then each prompt, all in one cache; then the targets, of which only the views are wanted.
  std::vector<Segment> segments{{.cache = pass.cache,
                                 .tokens = pass.tokens,
                                 .positions = pass.positions,
                                 .rows = static_cast<int32_t>(pass.tokens.size()),
                                 .evict = true,
                                 .adapter = pass.adapter}};
  for (const SharedPrompt& prompt : pass.prompts) {
    segments.push_back({.cache = pass.cache,
                        .policy = prompt.policy,
                        .tokens = prompt.tokens,
                        .positions = prompt.positions,
                        .observers = static_cast<int32_t>(prompt.tokens.size()),
                        .evict = true,
                        .adapter = pass.adapter});
  }
  for (const SharedPrompt& prompt : pass.prompts) {
    if (prompt.target != nullptr) segments.push_back({.cache = prompt.target});
  }
  LONGHAUL_TRY(stage(segments));
  const auto attend = [&](int32_t layer) { return attend_shared(pool, layer, pass); };
  LONGHAUL_TRY(run_layers(std::cref(attend), nullptr));
  LONGHAUL_TRY(pass.cache->collect());
  for (const SharedPrompt& prompt : pass.prompts) {
    if (prompt.target != nullptr) LONGHAUL_TRY(prompt.target->collect());
  }
  return Status();
}

Status Transformer::attend_shared(PagePool& pool, int32_t layer, const SharedPass& pass) {
  const CacheView* cache = views_.slice(layer, 1).as<const CacheView>();
  const CacheView* prompt_view = cache + 1;
  const CacheView* target = prompt_view + pass.prompts.size();
  const int32_t kv_heads = static_cast<int32_t>(config_.kv_heads);
  LONGHAUL_TRY(append_rows(pool, cache, 1));
  LONGHAUL_TRY(attend_rows(pool, cache, 1));
  int64_t row = static_cast<int64_t>(pass.tokens.size());
  for (const SharedPrompt& prompt : pass.prompts) {
    const int32_t observers = static_cast<int32_t>(prompt.tokens.size());
    if (observers > 0) {
      LONGHAUL_TRY(append_rows(pool, prompt_view, 1));
      LONGHAUL_TRY(attend_rows(pool, prompt_view, 1));
    }
    const EvictionInput input{.view = prompt_view,
                              .q = queries().slice(row, observers),
                              .own = prompt.own,
                              .layer = layer,
                              .observers = observers,
                              .scale = attention_scale()};
    LONGHAUL_TRY(select_rows(backend_, *stream_, pool.arrays(), *prompt.policy, input, eviction_, nullptr));
    const bool first = &prompt == pass.prompts.data();
    LONGHAUL_TRY(join_union(backend_, *stream_, prompt_view, *prompt.policy, first, eviction_));
    if (prompt.target != nullptr) {
      LONGHAUL_TRY(run(backend_, *stream_,
                       CopyRowsArgs{.pages = pool.arrays(),
                                    .source = prompt_view,
                                    .target = target++,
                                    .kept = eviction_.kept,
                                    .kept_count = eviction_.kept_count,
                                    .kv_heads = kv_heads}));
    }
    if (observers > 0) {
      LONGHAUL_TRY(
          run(backend_, *stream_,
              TruncateArgs{.views = prompt_view, .sequences = 1, .kv_heads = kv_heads, .drop = observers}));
    }
    ++prompt_view;
    row += observers;
  }
  return keep_union(backend_, *stream_, pool.arrays(), cache, *pass.prompts.front().policy,
                    pass.budgets[static_cast<size_t>(layer)], eviction_);
}

}  // namespace longhaul
