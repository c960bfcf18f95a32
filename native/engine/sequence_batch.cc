#include <algorithm>

#include "engine/sequence.h"

namespace longhaul {

Status Sequence::prepare_together(std::span<Sequence* const> sequences) {
  PassLimits limits{.sequences = static_cast<int64_t>(sequences.size())};
  // What a head holds is each sequence's own affair, and its scratch memory is there since it was made.
  for (const Sequence* sequence : sequences) {
    limits.rows += int64_t{sequence->policy_.block} + sequence->policy_.observers();
  }
  const Status status = sequences.front()->model_.prepare(sequences.front()->pool_, limits);
  if (status.code() != Code::kOutOfMemory) return status;
  return out_of_memory("a pass of " + std::to_string(sequences.size()) + " sequences at once takes " +
                       std::to_string(limits.rows) +
                       " rows: lower block, or prefill one after the other: " + status.message());
}

Status Sequence::prefill_together(std::span<Sequence* const> sequences, std::span<const int32_t> tokens) {
  std::vector<Segment> segments;
  std::vector<SequenceCache*> caches;
  for (Sequence* sequence : sequences) {
    LONGHAUL_TRY(sequence->settled());
    LONGHAUL_ASSERT(static_cast<int64_t>(tokens.size()) <= sequence->policy_.block);
    const bool evict = sequence->policy_.bounded();
    const std::vector<int32_t> observers = evict ? sequence->observers_behind(tokens) : std::vector<int32_t>();
    LONGHAUL_ASSIGN(const Segment segment, sequence->stage(tokens, observers, evict));
    segments.push_back(segment);
    caches.push_back(sequence->cache_.get());
  }
  Status status = forward(sequences.front()->model_, sequences.front()->pool_, segments, nullptr);
  if (status.ok()) status = SequenceCache::settle_together(caches);
  for (Sequence* sequence : sequences) {
    if (!status.ok()) {
      static_cast<void>(sequence->broken(status));
      continue;
    }
    // Nobody draws behind a prefill of several.
    sequence->count(tokens, static_cast<int64_t>(tokens.size()) - 1);
    sequence->tail_rows_ =
        sequence->policy_.bounded() ? 0 : sequence->tail_rows_ + static_cast<int32_t>(tokens.size());
  }
  return status;
}

Status Sequence::extend_together(std::span<Sequence* const> sequences, std::span<const int32_t> tokens) {
  std::vector<Segment> segments;
  for (size_t i = 0; i < sequences.size(); ++i) {
    LONGHAUL_TRY(sequences[i]->settled());
    LONGHAUL_ASSERT(sequences[i]->tail_holds(1));
    LONGHAUL_ASSIGN(const Segment segment, sequences[i]->stage(tokens.subspan(i, 1), {}, false));
    segments.push_back(segment);
  }
  const Status status = forward(sequences.front()->model_, sequences.front()->pool_, segments, nullptr);
  for (size_t i = 0; i < sequences.size(); ++i) {
    if (!status.ok()) {
      static_cast<void>(sequences[i]->broken(status));
      continue;
    }
    sequences[i]->count(tokens.subspan(i, 1), static_cast<int64_t>(i));
    ++sequences[i]->tail_rows_;
  }
  return status;
}

Status Sequence::settle_together(std::span<Sequence* const> sequences) {
  std::vector<SequenceCache*> caches;
  for (Sequence* sequence : sequences) caches.push_back(sequence->cache_.get());
  const Status status = SequenceCache::settle_together(caches);
  for (Sequence* sequence : sequences) {
    if (!status.ok()) static_cast<void>(sequence->broken(status));
  }
  return status;
}

}  // namespace longhaul
