#include <algorithm>

#include "engine/tasks.h"

namespace longhaul {

Event IngestSharedTask::told(EventKind kind) const {
  Event event{.task = id,
              .kind = kind,
              .done = prefill_ == nullptr ? 0 : prefill_->done(),
              .total = static_cast<int64_t>(tokens_.size())};
  if (prefill_ != nullptr) {
    event.reserved_bytes = prefill_->reserved_bytes();
    event.peak_bytes = prefill_->peak_bytes();
  }
  return event;
}

std::optional<Event> IngestSharedTask::cancelled_event() const {
  Event event = told(EventKind::kDone);
  event.finish = FinishReason::kCancelled;
  return event;
}

Result<bool> IngestSharedTask::step(Engine& engine) {
  std::vector<Sequence*> sequences;
  for (uint64_t sequence : sequences_) {
    LONGHAUL_ASSIGN(Sequence * found, engine.find(sequence));
    if (std::find(sequences.begin(), sequences.end(), found) != sequences.end()) {
      return invalid_argument("a sequence cannot take the same tokens in twice at once");
    }
    sequences.push_back(found);
  }
  if (cancelled) {
    Event event = *cancelled_event();
    prefill_.reset();  // whoever hears of the end finds its memory free
    engine.tell(std::move(event));
    return true;
  }
  if (prefill_ == nullptr) {
    if (sequences.empty()) return invalid_argument("there is no sequence to take tokens in");
    if (tokens_.empty()) return invalid_argument("there is no token to take in");
    LONGHAUL_TRY(engine.check_tokens(tokens_));
    LONGHAUL_ASSIGN(prefill_, SharedPrefill::create(std::move(sequences), tokens_, std::move(budgets_)));
  }
  LONGHAUL_TRY(prefill_->step(tokens_));
  const bool finished = prefill_->done() == static_cast<int64_t>(tokens_.size());
  engine.tell(told(EventKind::kProgress));
  if (finished) {
    Event event = told(EventKind::kDone);
    prefill_.reset();
    engine.tell(std::move(event));
  }
  return finished;
}

}  // namespace longhaul
