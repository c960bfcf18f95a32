// Sequences that leave the device and come back. An image may come from a file, so it is hostile until checked.
#include <algorithm>

#include "engine/sequence.h"

namespace longhaul {
namespace {

Status bad(const std::string& what) {
  return corrupt_file("no sequence of this model can be like that: " + what);
}

std::string of_head(int64_t layer, int64_t head) {
  return "layer " + std::to_string(layer) + ", KV head " + std::to_string(head) + ": ";
}

Status check_geometry(const KvGeometry& image, const KvGeometry& model) {
  if (image.layers == model.layers && image.kv_heads == model.kv_heads && image.head_dim == model.head_dim &&
      image.dtype == model.dtype) {
    return Status();
  }
  const auto describe = [](const KvGeometry& g) {
    return std::to_string(g.layers) + " layers of " + std::to_string(g.kv_heads) + " KV heads of " +
           std::to_string(g.head_dim) + " " + name_of(g.dtype);
  };
  return bad("it has " + describe(image) + ", the model " + describe(model));
}

Status check_tokens(const char* name, std::span<const int32_t> tokens, int64_t vocab_size) {
  for (int32_t token : tokens) {
    if (token < 0 || token >= vocab_size) {
      return bad(std::string(name) + " has token id " + std::to_string(token) + ", the vocabulary " +
                 std::to_string(vocab_size));
    }
  }
  return Status();
}

Status check_policy(const MemoryPolicy& policy, const KvGeometry& geometry, const ModelConfig& model) {
  Status status = check(policy, geometry);
  if (status.ok()) status = check_positions(policy, geometry, model.max_positions);
  if (!status.ok()) return bad(status.message());
  // Kept in bounds too where the policy does not look at them.
  if (policy.window < 1 || policy.sinks < 0) return bad("window or sinks are out of range");
  return check_tokens("the prompt", policy.prompt, model.vocab_size);
}

Status check_counts(const SequenceImage& image, const ModelConfig& model) {
  const MemoryPolicy& policy = image.policy;
  const bool may_pack = policy.positions == PositionKind::kPacked;
  const Packing& packing = image.packing;
  if (packing.times < 0 || (packing.times > 0 && !may_pack) || packing.rotations < 0 ||
      packing.rotations > packing.times || packing.settled < 0 || packing.settled > image.next_position ||
      (packing.times == 0 && packing.settled > 0)) {
    return bad("positions packed " + std::to_string(packing.times) + " times, " +
               std::to_string(packing.rotations) + " of them all, up to " + std::to_string(packing.settled));
  }
  // JavaScript counts no further.
  constexpr int64_t kMostTokens = int64_t{1} << 53;
  if (image.next_position < 0 || image.next_position > std::min(model.max_positions, image.tokens_seen) ||
      image.tokens_seen > kMostTokens || (packing.times == 0 && image.next_position != image.tokens_seen)) {
    return bad(std::to_string(image.tokens_seen) + " tokens seen, the next one at position " +
               std::to_string(image.next_position) + " of the model's " + std::to_string(model.max_positions));
  }
  const int64_t most = policy.bounded() ? std::min<int64_t>(policy.tail, image.tokens_seen) : image.tokens_seen;
  if (image.tail_rows < 0 || image.tail_rows > most || (!policy.bounded() && image.tail_rows != most)) {
    return bad("a tail of " + std::to_string(image.tail_rows) + " rows of " + std::to_string(most));
  }
  const int64_t recent = static_cast<int64_t>(image.recent.size());
  const int64_t observing = policy.observing_tokens();
  if (recent > std::min(observing, image.tokens_seen)) {
    return bad(std::to_string(recent) + " recent tokens, of which " + std::to_string(observing) + " observe");
  }
  // A full tail was filled by a pass, and its eviction observes with that pass's last tokens.
  if (observing > 0 && image.tail_rows == policy.tail && recent == 0) return bad("no recent token");
  LONGHAUL_TRY(check_tokens("what was seen last", image.recent, model.vocab_size));
  if (!image.pending) return Status();
  return check_tokens("what was drawn last", {&*image.pending, 1}, model.vocab_size);
}

// Positions of one head: ascending, below next_position, the tail's without a gap at the end.
Status check_positions(const SequenceImage& image, std::span<const int32_t> positions) {
  int64_t last = -1;
  for (int32_t position : positions) {
    if (position <= last || position >= image.next_position) {
      return bad("position " + std::to_string(position) + " behind " + std::to_string(last) + ", the next is " +
                 std::to_string(image.next_position));
    }
    last = position;
  }
  const auto tail = static_cast<size_t>(image.tail_rows);
  // Distinct, ascending and below next_position: where the first of the tail is right, all are.
  if (tail > 0 && positions[positions.size() - tail] != image.next_position - image.tail_rows) {
    return bad("the tail does not hold the newest tokens");
  }
  return Status();
}

Status check_layer(const SequenceImage& image, int64_t layer, const int32_t*& positions) {
  const MemoryPolicy& policy = image.policy;
  const int64_t heads = image.geometry.kv_heads;
  const int32_t* lengths = image.rows.lengths.data() + layer * heads;
  const int64_t budget = policy.bounded() ? policy.budgets[static_cast<size_t>(layer)] : image.tokens_seen;
  const int32_t* const first = positions;
  int64_t frozen = 0;
  for (int64_t head = 0; head < heads; ++head) {
    const int64_t kept = lengths[head] - image.tail_rows;
    frozen += kept;
    if (policy.selection_level() == SelectLevel::kHead && kept > budget) {
      return bad(of_head(layer, head) + std::to_string(kept) + " kept rows are more than the budget");
    }
    const std::span<const int32_t> rows(positions, static_cast<size_t>(lengths[head]));
    const Status status = check_positions(image, rows);
    if (!status.ok()) return {status.code(), of_head(layer, head) + status.message()};
    // Their scores are shared row by row.
    if (policy.kind == PolicyKind::kTova && !std::equal(rows.begin(), rows.end(), first, first + lengths[0])) {
      return bad(of_head(layer, head) + "its rows are not those of the other heads");
    }
    positions += lengths[head];
  }
  if (frozen > budget * heads) {
    return bad("layer " + std::to_string(layer) + ": " + std::to_string(frozen) +
               " kept rows are more than the budget");
  }
  return Status();
}

Status check_rows(const SequenceImage& image, int64_t max_positions) {
  const int64_t heads = int64_t{image.geometry.layers} * image.geometry.kv_heads;
  const std::vector<int32_t>& lengths = image.rows.lengths;
  if (static_cast<int64_t>(lengths.size()) != heads) {
    return bad(std::to_string(lengths.size()) + " lengths for " + std::to_string(heads) + " heads");
  }
  int64_t rows = 0;
  int64_t pages = 0;
  for (int32_t length : lengths) {
    if (length < image.tail_rows || length > image.next_position ||
        (!image.policy.bounded() && length != image.tokens_seen)) {
      return bad("a head of " + std::to_string(length) + " rows below position " +
                 std::to_string(image.next_position));
    }
    rows += length;
    pages += pages_for(length);
  }
  if (static_cast<int64_t>(image.rows.positions.size()) != rows) {
    return bad(std::to_string(image.rows.positions.size()) + " positions for " + std::to_string(rows) +
               " rows");
  }
  const int64_t most = image.policy.bounded() ? reservation_pages(image.policy, image.geometry)
                                              : heads * pages_for(max_positions);
  if (image.peak_pages < pages || image.peak_pages > most) {
    return bad("a peak of " + std::to_string(image.peak_pages) + " pages, " + std::to_string(pages) +
               " in use");
  }
  return Status();
}

}  // namespace

Status check(const SequenceImage& image, const ModelConfig& model, const KvGeometry& geometry) {
  LONGHAUL_TRY(check_geometry(image.geometry, geometry));
  LONGHAUL_TRY(check_policy(image.policy, geometry, model));
  LONGHAUL_TRY(check_counts(image, model));
  LONGHAUL_TRY(check_rows(image, model.max_positions));
  const int32_t* positions = image.rows.positions.data();
  for (int64_t layer = 0; layer < geometry.layers; ++layer) {
    LONGHAUL_TRY(check_layer(image, layer, positions));
  }
  return Status();
}

Result<std::unique_ptr<Sequence>> Sequence::restore(Transformer& model, PagePool& pool,
                                                    const SequenceImage& image) {
  LONGHAUL_TRY(check(image, model.config(), pool.geometry()));
  LONGHAUL_ASSIGN(std::unique_ptr<Sequence> sequence, create(model, pool, image.policy));
  // Policy `full` reserves as it grows.
  LONGHAUL_TRY(sequence->admit(image.tokens_seen));
  LONGHAUL_TRY(sequence->cache_->take_index(image.rows, image.peak_pages));
  sequence->tokens_seen_ = image.tokens_seen;
  sequence->next_position_ = image.next_position;
  sequence->packing_ = image.packing;
  sequence->tail_rows_ = static_cast<int32_t>(image.tail_rows);
  sequence->recent_ = image.recent;
  sequence->pending = image.pending;
  if (!image.rows.positions.empty()) {
    sequence->awaited_ = image.rows.lengths;
    sequence->damage_ = invalid_argument("this conversation is being restored: some of its rows are missing");
  }
  return sequence;
}

Result<SequenceImage> Sequence::image() {
  LONGHAUL_TRY(settled());
  LONGHAUL_ASSIGN(CacheIndex rows, cache_->index());
  return SequenceImage{.geometry = pool_.geometry(),
                       .policy = policy_,
                       .tokens_seen = tokens_seen_,
                       .next_position = next_position_,
                       .packing = packing_,
                       .tail_rows = tail_rows_,
                       .pending = pending,
                       .recent = recent_,
                       .peak_pages = cache_->peak_pages(),
                       .rows = std::move(rows)};
}

Status Sequence::check_head(int32_t layer, int32_t head) const {
  const KvGeometry& geometry = pool_.geometry();
  if (layer >= 0 && layer < geometry.layers && head >= 0 && head < geometry.kv_heads) return Status();
  return invalid_argument("there is no KV head " + std::to_string(head) + " in layer " + std::to_string(layer));
}

Result<std::vector<uint8_t>> Sequence::read_rows(int32_t layer, int32_t head) {
  LONGHAUL_TRY(settled());
  LONGHAUL_TRY(check_head(layer, head));
  return cache_->read_head(layer, head);
}

Status Sequence::write_rows(int32_t layer, int32_t head, std::span<const uint8_t> rows) {
  LONGHAUL_TRY(check_head(layer, head));
  const KvGeometry& geometry = pool_.geometry();
  const size_t index = static_cast<size_t>(layer) * geometry.kv_heads + head;
  if (awaited_.empty() || awaited_[index] == 0) {
    return invalid_argument(of_head(layer, head) + "no rows are awaited");
  }
  const size_t bytes = 2 * static_cast<size_t>(awaited_[index]) * geometry.head_dim * size_of(geometry.dtype);
  if (rows.size() != bytes) {
    return bad(of_head(layer, head) + std::to_string(awaited_[index]) + " rows take " + std::to_string(bytes) +
               " bytes, not " + std::to_string(rows.size()));
  }
  LONGHAUL_TRY(cache_->write_head(layer, head, rows));
  awaited_[index] = 0;
  if (std::any_of(awaited_.begin(), awaited_.end(), [](int32_t length) { return length > 0; })) return Status();
  awaited_.clear();
  damage_ = Status();
  return Status();
}

}  // namespace longhaul
