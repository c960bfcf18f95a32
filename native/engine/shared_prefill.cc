#include "engine/shared_prefill.h"

#include <algorithm>
#include <limits>
#include <new>
#include <numeric>

namespace longhaul {
namespace {

Status check_policies(std::span<Sequence* const> sequences, std::span<const int32_t> budgets) {
  const MemoryPolicy& first = sequences.front()->policy();
  if (!first.prompted() || first.observing_tokens() != 0) {
    return invalid_argument("only sequences of policies made for episodes can share a prefill");
  }
  if (budgets.size() != first.budgets.size()) {
    return invalid_argument("the shared cache has budgets of " + std::to_string(budgets.size()) +
                            " layers, the model has " + std::to_string(first.budgets.size()));
  }
  for (size_t layer = 0; layer < budgets.size(); ++layer) {
    if (budgets[layer] < first.budgets[layer]) {
      return invalid_argument("the shared cache keeps " + std::to_string(budgets[layer]) +
                              " rows a head in layer " + std::to_string(layer) +
                              ", fewer than the budget of each sequence (" +
                              std::to_string(first.budgets[layer]) + ")");
    }
  }
  for (const Sequence* sequence : sequences) {
    const MemoryPolicy& policy = sequence->policy();
    if (policy.kind != first.kind || policy.level != first.level || policy.budgets != first.budgets ||
        policy.block != first.block || policy.prompt_at_last_position != first.prompt_at_last_position) {
      return invalid_argument("sequences that share a prefill may differ in their prompts and own tokens only");
    }
    if (sequence->adapter() != sequences.front()->adapter()) {
      return invalid_argument("sequences that share a prefill must have the same adapter");
    }
    if (sequence->tokens_seen() > 0 || sequence->pending) {
      return invalid_argument("sequences that share a prefill must be empty");
    }
  }
  return Status();
}

}  // namespace

Result<std::unique_ptr<SharedPrefill>> SharedPrefill::create(std::vector<Sequence*> sequences,
                                                             std::span<const int32_t> tokens,
                                                             std::vector<int32_t> budgets) {
  LONGHAUL_TRY(check_policies(sequences, budgets));
  for (Sequence* sequence : sequences) LONGHAUL_TRY(sequence->admit(static_cast<int64_t>(tokens.size())));
  Transformer& model = sequences.front()->model_;
  PagePool& pool = sequences.front()->pool_;

  // The working cache is that of a policy with the union's budgets, no tail, and the longest prompt.
  MemoryPolicy working = sequences.front()->policy();
  working.budgets = budgets;
  working.tail = 0;
  int64_t prompt_rows = 0;
  for (const Sequence* sequence : sequences) {
    const std::vector<int32_t>& prompt = sequence->policy().prompt;
    prompt_rows += static_cast<int64_t>(prompt.size());
    if (prompt.size() > working.prompt.size()) working.prompt = prompt;
  }
  // The working cache is never packed, whatever the sequences do later.
  const int64_t end = static_cast<int64_t>(tokens.size()) + static_cast<int64_t>(working.prompt.size());
  if (end > model.config().max_positions) {
    return invalid_argument("builder shared needs " + std::to_string(end) +
                            " positions for a history and its longest prompt, the model has " +
                            std::to_string(model.config().max_positions) +
                            ": use another builder, or take the history in parts");
  }
  const KvGeometry& geometry = pool.geometry();
  const int64_t pages = reservation_pages(working, geometry);
  const int64_t free = pool.total_pages() - pool.reserved_pages();
  if (pages > free) {
    return out_of_memory("the working cache of " + std::to_string(sequences.size()) + " sequences needs " +
                         explain_reservation(working, geometry) + "; the KV pool has " + std::to_string(free) +
                         " of " + std::to_string(pool.total_pages()) +
                         " pages free: raise kvBytes, lower the working cache's rows, budget or block");
  }
  const int64_t head_rows = std::min(head_capacity(working, geometry), pages * kPageRows);
  if (head_rows * geometry.kv_heads > std::numeric_limits<int32_t>::max()) {
    return invalid_argument("the working cache allows " + std::to_string(head_rows) + " rows in each of " +
                            std::to_string(geometry.kv_heads) + " KV heads, more than can be indexed");
  }
  LONGHAUL_TRY(model.prepare(pool, {.rows = int64_t{working.block} + prompt_rows,
                                    .head_rows = head_rows,
                                    .scored_rows = pages_for(head_rows) * kPageRows,
                                    .observers = working.observers(),
                                    .sequences = 2 * static_cast<int64_t>(sequences.size()) + 1,
                                    .shared_rows = pages_for(head_rows) * kPageRows}));
  std::unique_ptr<SharedPrefill> prefill(new SharedPrefill(std::move(sequences), std::move(budgets)));
  LONGHAUL_ASSIGN(prefill->cache_,
                  SequenceCache::create(model.backend(), model.stream(), pool, head_rows, pages, pages));
  return prefill;
}

Status SharedPrefill::step(std::span<const int32_t> tokens) {
  const int64_t total = static_cast<int64_t>(tokens.size());
  const int64_t rows = std::min<int64_t>(total - done_, sequences_.front()->policy().block);
  const bool last = done_ + rows == total;
  const Status status = pass(tokens.subspan(static_cast<size_t>(done_), static_cast<size_t>(rows)), last);
  done_ += rows;
  if (!last) return status;
  for (Sequence* sequence : sequences_) {
    if (!status.ok()) {
      static_cast<void>(sequence->broken(status));
      continue;
    }
    sequence->cache_->expect_rows(total);
    sequence->count(tokens, static_cast<int64_t>(tokens.size()) - 1);
  }
  return status;
}

Status SharedPrefill::pass(std::span<const int32_t> block, bool last) {
  const int32_t begin = static_cast<int32_t>(done_);
  const int32_t end = begin + static_cast<int32_t>(block.size());
  std::vector<int32_t> positions(block.size());
  std::iota(positions.begin(), positions.end(), begin);
  std::vector<SharedPrompt> prompts;
  std::vector<std::vector<int32_t>> prompt_positions;
  std::vector<SequenceCache*> caches{cache_.get()};
  for (Sequence* sequence : sequences_) {
    const MemoryPolicy& policy = sequence->policy();
    prompt_positions.emplace_back(policy.prompt.size());
    std::iota(prompt_positions.back().begin(), prompt_positions.back().end(),
              policy.prompt_at_last_position ? end - 1 : end);
    prompts.push_back({.policy = &policy,
                       .own = sequence->own(),
                       .tokens = policy.prompt,
                       .positions = prompt_positions.back(),
                       .target = last ? sequence->cache_.get() : nullptr});
    if (last) caches.push_back(sequence->cache_.get());
  }
  const Sequence& first = *sequences_.front();
  const SharedPass pass{.cache = cache_.get(),
                        .tokens = block,
                        .positions = positions,
                        .prompts = prompts,
                        .budgets = budgets_,
                        .adapter = first.adapter()};
  Status status;
  try {
    status = first.model_.forward(first.pool_, pass);
  } catch (const std::bad_alloc&) {
    status = out_of_memory("the process has no memory left");
  }
  LONGHAUL_TRY(status);
  return SequenceCache::settle_together(caches);
}

}  // namespace longhaul
