#include <algorithm>

#include "engine/tasks.h"

namespace longhaul {

std::optional<Event> IngestTogetherTask::cancelled_event() const {
  return Event{.task = id,
               .kind = EventKind::kDone,
               .done = static_cast<int64_t>(done_),
               .total = static_cast<int64_t>(tokens_.size()),
               .finish = FinishReason::kCancelled};
}

Status IngestTogetherTask::admit(Engine& engine, std::span<Sequence* const> sequences) const {
  if (sequences.empty()) return invalid_argument("there is no sequence to take tokens in");
  if (tokens_.empty()) return invalid_argument("there is no token to take in");
  LONGHAUL_TRY(engine.check_tokens(tokens_));
  for (size_t i = 0; i < sequences.size(); ++i) {
    if (std::find(sequences.begin(), sequences.begin() + static_cast<int64_t>(i), sequences[i]) !=
        sequences.begin() + static_cast<int64_t>(i)) {
      return invalid_argument("a sequence cannot take the same tokens in twice at once");
    }
    if (sequences[i]->policy().block != sequences[0]->policy().block) {
      return invalid_argument("sequences with blocks of " + std::to_string(sequences[0]->policy().block) +
                              " and of " + std::to_string(sequences[i]->policy().block) +
                              " tokens cannot take them in together");
    }
    if (sequences[i]->pending) {
      return invalid_argument("a sequence whose last token has not run yet cannot take tokens in with others");
    }
  }
  for (Sequence* sequence : sequences) LONGHAUL_TRY(sequence->admit(static_cast<int64_t>(tokens_.size())));
  return Sequence::prepare_together(sequences);
}

Result<bool> IngestTogetherTask::step(Engine& engine) {
  std::vector<Sequence*> sequences;
  for (uint64_t sequence : sequences_) {
    LONGHAUL_ASSIGN(Sequence * found, engine.find(sequence));
    sequences.push_back(found);
  }
  if (cancelled) {
    for (Sequence* sequence : sequences) LONGHAUL_TRY(sequence->give_back());
    engine.tell(*cancelled_event());
    return true;
  }
  if (!admitted_) {
    const Status status = admit(engine, sequences);
    if (!status.ok()) {
      for (Sequence* sequence : sequences) LONGHAUL_TRY(sequence->give_back());
      return status;
    }
    admitted_ = true;
  }
  const size_t count = std::min(tokens_.size() - done_, static_cast<size_t>(sequences.front()->policy().block));
  LONGHAUL_TRY(Sequence::prefill_together(sequences, {tokens_.data() + done_, count}));
  done_ += count;
  Event event{.task = id,
              .kind = EventKind::kProgress,
              .done = static_cast<int64_t>(done_),
              .total = static_cast<int64_t>(tokens_.size())};
  const bool finished = done_ == tokens_.size();
  if (finished) {
    engine.tell(event);
    event.kind = EventKind::kDone;
  }
  engine.tell(std::move(event));
  return finished;
}

}  // namespace longhaul
