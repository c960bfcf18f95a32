#include <algorithm>

#include "engine/decode.h"
#include "engine/tasks.h"

namespace longhaul {

std::optional<Event> GenerateTask::cancelled_event() const {
  return Event{
      .task = id, .kind = EventKind::kDone, .done = question_done(), .finish = FinishReason::kCancelled};
}

GenerateTask* GenerateTask::decoding() {
  return drawn_ > 0 && !tail_full_ && !cancelled ? this : nullptr;
}

bool GenerateTask::waiting() const {
  return tail_full_ && options_.confirm && confirmed < drawn_ && !cancelled;
}

Result<bool> GenerateTask::step(Engine& engine) {
  LONGHAUL_ASSIGN(Sequence * sequence, engine.find(sequence_));
  if (cancelled && (!admitted_ || drawn_ > 0)) return finish(engine, FinishReason::kCancelled);
  if (!admitted_) LONGHAUL_TRY(admit(engine, *sequence));
  if (drawn_ == 0) return question_step(engine, *sequence);
  LONGHAUL_TRY(sequence->evict_tail());
  tail_full_ = false;
  return false;
}

Status GenerateTask::admit(Engine& engine, Sequence& sequence) {
  LONGHAUL_TRY(engine.check_tokens(tokens_));
  if (options_.max_tokens < 1) return invalid_argument("maxTokens must be at least 1");
  const int64_t pending = sequence.pending ? 1 : 0;
  if (tokens_.empty() && !pending)
    return invalid_argument("the prompt is empty: there is no token to continue from");
  // An answer ends with the model's positions. Its last token stays pending, so it needs none.
  const int64_t positions_left = sequence.tokens_left() - static_cast<int64_t>(tokens_.size());
  options_.max_tokens = static_cast<int32_t>(
      std::clamp<int64_t>(options_.max_tokens, 1, std::max<int64_t>(positions_left, 0) + 1));
  const int64_t rows = static_cast<int64_t>(tokens_.size()) + options_.max_tokens - 1;
  LONGHAUL_TRY(sequence.admit(rows));
  if (!options_.may_evict && !sequence.tail_holds(pending + rows)) {
    return invalid_argument(
        "an answer that is not remembered must fit the tail: " + std::to_string(sequence.tail_rows()) +
        " rows are in it, question and answer take up to " + std::to_string(pending + rows) +
        " more, and it holds " + std::to_string(sequence.policy().tail) +
        "; raise memory.tail, lower maxTokens, or remember the answer");
  }
  if (options_.params.repetition_penalty != 1) seen_ = SeenTokens(engine.model().config().vocab_size, tokens_);
  if (pending) tokens_.insert(tokens_.begin(), *sequence.pending);
  pending_ = static_cast<size_t>(pending);
  sequence.pending.reset();
  in_tail_ = sequence.tail_holds(static_cast<int64_t>(tokens_.size()));
  admitted_ = true;
  return Status();
}

Result<bool> GenerateTask::question_step(Engine& engine, Sequence& sequence) {
  const size_t count = std::min(tokens_.size() - done_, static_cast<size_t>(sequence.policy().block));
  const std::span<const int32_t> block(tokens_.data() + done_, count);
  LONGHAUL_TRY(in_tail_ ? sequence.extend(block) : sequence.prefill(block));
  done_ += count;
  if (cancelled) return finish(engine, FinishReason::kCancelled);
  engine.tell({.task = id,
               .kind = EventKind::kProgress,
               .done = question_done(),
               .total = static_cast<int64_t>(tokens_.size() - pending_)});
  if (done_ < tokens_.size()) return false;
  return draw_first(engine, *this, sequence);
}

DrawRow GenerateTask::draw_row(const Sequence& sequence) const {
  DrawRow row{.owner = id, .params = options_.params, .seen = &seen_};
  row.params.position = static_cast<uint64_t>(sequence.tokens_seen());
  return row;
}

Result<bool> GenerateTask::take(Engine& engine, Sequence& sequence, int32_t token) {
  sequence.pending = token;
  ++drawn_;
  if (options_.params.repetition_penalty != 1) seen_.add(token);
  engine.tell({.task = id, .kind = EventKind::kTokens, .tokens = {token}});
  if (std::find(options_.stop_tokens.begin(), options_.stop_tokens.end(), token) !=
      options_.stop_tokens.end()) {
    return finish(engine, FinishReason::kStop);
  }
  if (drawn_ == options_.max_tokens) return finish(engine, FinishReason::kLength);
  tail_full_ = !sequence.tail_holds(1);
  return false;
}

Result<bool> GenerateTask::finish(Engine& engine, FinishReason reason) {
  if (admitted_) {
    LONGHAUL_ASSIGN(Sequence * sequence, engine.find(sequence_));
    LONGHAUL_TRY(sequence->give_back());
  }
  engine.tell({.task = id, .kind = EventKind::kDone, .done = question_done(), .finish = reason});
  return true;
}

}  // namespace longhaul
