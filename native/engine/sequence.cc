#include "engine/sequence.h"

#include <algorithm>
#include <limits>
#include <new>
#include <numeric>

namespace longhaul {

Result<std::unique_ptr<Sequence>> Sequence::create(Transformer& model, PagePool& pool, MemoryPolicy policy) {
  const KvGeometry& geometry = pool.geometry();
  // No pass is longer than the model has positions, so a larger block would only take scratch memory.
  policy.block = static_cast<int32_t>(std::min<int64_t>(policy.block, model.config().max_positions));
  LONGHAUL_TRY(check(policy, geometry));
  LONGHAUL_TRY(check_positions(policy, geometry, model.config().max_positions));
  std::unique_ptr<Sequence> sequence(new Sequence(model, pool, std::move(policy)));
  const MemoryPolicy& p = sequence->policy_;

  int64_t head_rows = 0;
  int64_t pages = 0;
  int64_t most_pages = 0;
  if (p.bounded()) {
    pages = most_pages = reservation_pages(p, geometry);
    const int64_t free = pool.total_pages() - pool.reserved_pages();
    if (pages > free) {
      return out_of_memory(
          "this conversation needs " + explain_reservation(p, geometry) + "; the KV pool has " +
          std::to_string(free) + " of " + std::to_string(pool.total_pages()) +
          " pages free: raise kvBytes, lower budget, tail or block, or dispose of a conversation");
    }
    head_rows = std::min(head_capacity(p, geometry), most_pages * kPageRows);
    if (head_rows * geometry.kv_heads > std::numeric_limits<int32_t>::max()) {
      return invalid_argument("budget, tail and block allow " + std::to_string(head_rows) +
                              " rows in each of " + std::to_string(geometry.kv_heads) +
                              " KV heads, more than can be indexed");
    }
  } else {
    const int64_t heads = int64_t{geometry.layers} * geometry.kv_heads;
    head_rows = std::min(model.config().max_positions, pool.total_pages() / heads * kPageRows);
    most_pages = heads * pages_for(head_rows);
    if (head_rows == 0) {
      return out_of_memory("a full cache takes at least " + std::to_string(heads) + " pages (" +
                           std::to_string(geometry.layers) + " layers x " + std::to_string(geometry.kv_heads) +
                           " KV heads), the KV pool has " + std::to_string(pool.total_pages()) +
                           ": raise kvBytes");
    }
  }
  const int64_t scored_rows = p.bounded() ? head_rows : 0;
  LONGHAUL_TRY(model.prepare(pool, {.rows = int64_t{p.block} + p.observers(),
                                    .head_rows = head_rows,
                                    .scored_rows = pages_for(scored_rows) * kPageRows,
                                    .observers = p.observers()}));
  LONGHAUL_ASSIGN(sequence->cache_,
                  SequenceCache::create(model.backend(), model.stream(), pool, head_rows, pages, most_pages));
  if (!p.own.empty()) {
    const size_t bytes = p.own.size() * sizeof p.own[0];
    LONGHAUL_ASSIGN(sequence->own_, model.backend().allocate(bytes, MemoryUse::kTables));
    LONGHAUL_TRY(model.backend().upload(model.stream(), sequence->own_.data(), p.own.data(), bytes));
  }
  return sequence;
}

int64_t Sequence::tokens_left() const {
  if (policy_.positions == PositionKind::kPacked) return std::numeric_limits<int64_t>::max() / 2;
  return model_.config().max_positions - tokens_seen_ - (pending ? 1 : 0);
}

Status Sequence::admit(int64_t tokens) {
  LONGHAUL_TRY(settled());
  const int64_t end = tokens_seen_ + (pending ? 1 : 0) + tokens;
  if (tokens > tokens_left()) {
    return invalid_argument(
        "position " + std::to_string(end) + " is past the model's " +
        std::to_string(model_.config().max_positions) +
        " positions (max_position_embeddings): " + std::to_string(tokens_seen_) +
        " tokens are in the conversation and " + std::to_string(end - tokens_seen_) +
        " more would follow; a conversation with a bounded policy and positions: \"packed\" goes on");
  }
  if (policy_.bounded()) return Status();
  const KvGeometry& geometry = pool_.geometry();
  const int64_t heads = int64_t{geometry.layers} * geometry.kv_heads;
  const int64_t pages = heads * pages_for(end);
  const int64_t more = pages - cache_->reserved_pages();
  const int64_t free = pool_.total_pages() - pool_.reserved_pages();
  if (more > free) {
    return out_of_memory("a full cache of " + std::to_string(end) + " tokens takes " +
                         std::to_string(geometry.layers) + " layers x " + std::to_string(geometry.kv_heads) +
                         " KV heads x " + std::to_string(pages_for(end)) + " pages = " + std::to_string(pages) +
                         " pages of " + std::to_string(geometry.page_bytes()) + " bytes; " +
                         std::to_string(cache_->reserved_pages()) + " are held and " + std::to_string(free) +
                         " are free in the KV pool: raise kvBytes or use a bounded policy");
  }
  return cache_->grow(pages);
}

Status Sequence::give_back() {
  if (!damage_.ok()) return Status();
  LONGHAUL_TRY(settled());
  if (policy_.bounded()) return Status();
  const KvGeometry& geometry = pool_.geometry();
  return cache_->shrink(int64_t{geometry.layers} * geometry.kv_heads * pages_for(tokens_seen_));
}

bool Sequence::tail_holds(int64_t rows) const {
  return !policy_.bounded() || tail_rows_ + rows <= policy_.tail;
}

Status Sequence::prefill(std::span<const int32_t> tokens, PassObserver* observer) {
  if (!policy_.bounded()) return extend(tokens, observer);
  LONGHAUL_TRY(pass(tokens, observers_behind(tokens), true, observer));
  tail_rows_ = 0;
  return Status();
}

Status Sequence::extend(std::span<const int32_t> tokens, PassObserver* observer) {
  LONGHAUL_ASSERT(tail_holds(static_cast<int64_t>(tokens.size())));
  LONGHAUL_TRY(pass(tokens, {}, false, observer));
  tail_rows_ += static_cast<int32_t>(tokens.size());
  return Status();
}

Status Sequence::evict_tail(PassObserver* observer) {
  LONGHAUL_ASSERT(policy_.bounded());
  LONGHAUL_TRY(pass({}, observers_behind({}), true, observer));
  tail_rows_ = 0;
  return Status();
}

std::vector<int32_t> Sequence::observers_behind(std::span<const int32_t> block) const {
  std::vector<int32_t> observers;
  if (policy_.prompted()) observers = policy_.prompt;
  const bool own_queries = policy_.kind == PolicyKind::kSnapKv || policy_.kind == PolicyKind::kTova;
  if (!own_queries || block.empty()) {
    const std::span<const int32_t> newest = block.empty() ? std::span<const int32_t>(recent_) : block;
    const size_t count = std::min(newest.size(), static_cast<size_t>(policy_.observing_tokens()));
    observers.insert(observers.end(), newest.end() - static_cast<int64_t>(count), newest.end());
  }
  return observers;
}

Status Sequence::broken(const Status& status) {
  damage_ =
      Status(status.code(), "this conversation's cache broke in a failed pass and cannot be used any more: " +
                                status.message());
  return status;
}

Status Sequence::settle() {
  const Status status = cache_->settle();
  return status.ok() ? status : broken(status);
}

Status Sequence::settled() {
  if (damage_.ok() && cache_->collecting()) return settle();
  return damage_;
}

// Each rotation rounds a key once more, and roundings add up. So rows that were packed stay where they are
// while half of the positions is left for new ones, and only then all rows are packed anew.
Status Sequence::make_positions(int64_t rows) {
  const int64_t most = model_.config().max_positions;
  if (policy_.positions == PositionKind::kAbsolute || next_position_ + rows <= most) return Status();
  const int64_t limit = std::min(most / 2, most - policy_.block - policy_.observers());
  // The tail moves as one: its tokens have been side by side, and are known to be by their positions.
  const int64_t settled = std::min<int64_t>(packing_.settled, next_position_ - tail_rows_);
  const Result<PackedPositions> packed = cache_->pack_positions(
      model_.rope_frequencies(), static_cast<int32_t>(settled), static_cast<int32_t>(limit));
  if (!packed.ok()) return broken(packed.status());
  // Rows are where others were: their positions do not tell any more whose they are.
  policy_.own.clear();
  own_ = Buffer();
  next_position_ = packed.value().end;
  packing_.settled = packed.value().end;
  ++packing_.times;
  if (packed.value().begin == 0) ++packing_.rotations;
  return Status();
}

Tensor Sequence::own() const {
  if (policy_.own.empty()) return Tensor();
  return Tensor::dense(own_.data(), DType::kI32, {static_cast<int64_t>(policy_.own.size()) / 2, 2});
}

Result<Segment> Sequence::stage(std::span<const int32_t> tokens, std::span<const int32_t> observers,
                                bool evict) {
  LONGHAUL_ASSERT(static_cast<int64_t>(tokens.size()) <= policy_.block);
  pass_tokens_.assign(tokens.begin(), tokens.end());
  pass_tokens_.insert(pass_tokens_.end(), observers.begin(), observers.end());
  pass_positions_.resize(pass_tokens_.size());
  LONGHAUL_TRY(make_positions(static_cast<int64_t>(pass_tokens_.size())));
  const int32_t begin = static_cast<int32_t>(next_position_);
  const int32_t end = begin + static_cast<int32_t>(tokens.size());
  std::iota(pass_positions_.begin(), pass_positions_.begin() + static_cast<int64_t>(tokens.size()), begin);
  std::iota(pass_positions_.begin() + static_cast<int64_t>(tokens.size()), pass_positions_.end(),
            policy_.prompt_at_last_position ? end - 1 : end);
  return Segment{.cache = cache_.get(),
                 .policy = &policy_,
                 .own = own(),
                 .tokens = pass_tokens_,
                 .positions = pass_positions_,
                 .rows = static_cast<int32_t>(tokens.size()),
                 .observers = static_cast<int32_t>(observers.size()),
                 .evict = evict,
                 .adapter = adapter_.get()};
}

Status Sequence::forward(Transformer& model, PagePool& pool, std::span<const Segment> segments,
                         PassObserver* observer) {
  try {
    return model.forward(pool, segments, observer);
  } catch (const std::bad_alloc&) {
    // The engine would survive it, but a sequence's layers disagree as after any other failure.
    return out_of_memory("the process has no memory left");
  }
}

void Sequence::count(std::span<const int32_t> tokens, int64_t last_row) {
  last_row_ = last_row;
  tokens_seen_ += static_cast<int64_t>(tokens.size());
  next_position_ += static_cast<int64_t>(tokens.size());
  recent_.insert(recent_.end(), tokens.begin(), tokens.end());
  const size_t most = static_cast<size_t>(policy_.observing_tokens());
  if (recent_.size() > most) recent_.erase(recent_.begin(), recent_.end() - static_cast<int64_t>(most));
}

Status Sequence::pass(std::span<const int32_t> tokens, std::span<const int32_t> observers, bool evict,
                      PassObserver* observer) {
  LONGHAUL_TRY(settled());
  LONGHAUL_ASSIGN(const Segment segment, stage(tokens, observers, evict));
  Status status = forward(model_, pool_, {&segment, 1}, observer);
  // One row without an eviction is a decode step: what is queued behind it, the draw, waits for both.
  if (status.ok() && (evict || pass_tokens_.size() != 1)) status = cache_->settle();
  if (!status.ok()) return broken(status);
  count(tokens, static_cast<int64_t>(tokens.size()) - 1);
  return Status();
}

Status Sequence::use(std::shared_ptr<const AdapterWeights> adapter) {
  LONGHAUL_TRY(settled());
  if (adapter != nullptr) LONGHAUL_TRY(model_.prepare(pool_, {.experts = adapter->limits()}));
  adapter_ = std::move(adapter);
  return Status();
}

Status Sequence::truncate(int64_t rows) {
  LONGHAUL_TRY(settled());
  if (rows < 0 || rows > tail_rows_) {
    return invalid_argument("cannot forget " + std::to_string(rows) + " tokens: " + std::to_string(tail_rows_) +
                            " came after the last eviction");
  }
  LONGHAUL_TRY(cache_->truncate(static_cast<int32_t>(rows)));
  tail_rows_ -= static_cast<int32_t>(rows);
  tokens_seen_ -= rows;
  next_position_ -= rows;
  packing_.settled = static_cast<int32_t>(std::min<int64_t>(packing_.settled, next_position_));
  recent_.resize(recent_.size() - std::min<size_t>(recent_.size(), static_cast<size_t>(rows)));
  return give_back();
}

Result<SequenceMemory> Sequence::memory() {
  if (cache_->collecting()) LONGHAUL_TRY(settle());
  LONGHAUL_ASSIGN(std::vector<int32_t> rows, cache_->lengths());
  return SequenceMemory{.tokens_seen = tokens_seen_,
                        .next_position = next_position_,
                        .packing = packing_,
                        .tail_rows = tail_rows_,
                        .reserved_bytes = cache_->reserved_pages() * cache_->page_bytes(),
                        .used_bytes = cache_->used_pages() * cache_->page_bytes(),
                        .peak_bytes = cache_->peak_pages() * cache_->page_bytes(),
                        .table_bytes = static_cast<int64_t>(cache_->table_bytes() + own_.bytes()),
                        .rows = std::move(rows)};
}

}  // namespace longhaul
