#include "engine/tasks.h"

namespace longhaul {

std::optional<Event> ProfileTask::cancelled_event() const {
  return Event{.task = id, .kind = EventKind::kDone, .finish = FinishReason::kCancelled};
}

Result<bool> ProfileTask::step(Engine& engine) {
  if (cancelled) {
    profile_.reset();  // whoever hears of the end finds its memory free
    engine.tell(*cancelled_event());
    return true;
  }
  if (profile_ == nullptr) {
    LONGHAUL_TRY(engine.check_tokens(tokens_));
    LONGHAUL_ASSIGN(profile_,
                    LayerProfile::create(engine.model(), engine.pool(), std::move(tokens_), options_));
  }
  LONGHAUL_TRY(profile_->step());
  Event event{.task = id, .kind = EventKind::kProgress, .done = profile_->done(), .total = profile_->total()};
  const bool finished = event.done == event.total;
  if (finished) {
    LONGHAUL_ASSIGN(const std::vector<double> similarity, profile_->similarity());
    profile_.reset();
    event.kind = EventKind::kDone;
    event.values.assign(similarity.begin(), similarity.end());
  }
  engine.tell(std::move(event));
  return finished;
}

}  // namespace longhaul
