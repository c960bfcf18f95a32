#include <algorithm>

#include "engine/tasks.h"

namespace longhaul {

std::optional<Event> GenerateTask::cancelled_event() const {
  return Event{
      .task = id, .kind = EventKind::kDone, .done = question_done(), .finish = FinishReason::kCancelled};
}

Result<bool> GenerateTask::step(Engine& engine) {
  LONGHAUL_ASSIGN(Sequence * sequence, engine.find(sequence_));
  if (!admitted_) {
    if (cancelled) return finish(engine, FinishReason::kCancelled);
    LONGHAUL_TRY(admit(engine, *sequence));
  }
  if (done_ < tokens_.size()) return question_step(engine, *sequence);
  return answer_step(engine, *sequence);
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
  LONGHAUL_TRY(engine.sampler().start(tokens_));
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
  return false;
}

// Draws from the last pass, then runs the drawn token unless the answer ends with it.
Result<bool> GenerateTask::answer_step(Engine& engine, Sequence& sequence) {
  if (cancelled) return finish(engine, FinishReason::kCancelled);
  LONGHAUL_ASSIGN(const Tensor logits, engine.model().logits(sequence.last_row(), 1));
  SampleParams params = options_.params;
  params.position = static_cast<uint64_t>(sequence.tokens_seen());
  LONGHAUL_TRY(engine.sampler().draw(logits, params));
  LONGHAUL_TRY(sequence.settle());  // the one wait of a step
  const int32_t token = engine.sampler().drawn();
  sequence.pending = token;
  ++drawn_;
  engine.tell({.task = id, .kind = EventKind::kTokens, .tokens = {token}});
  if (std::find(options_.stop_tokens.begin(), options_.stop_tokens.end(), token) !=
      options_.stop_tokens.end()) {
    return finish(engine, FinishReason::kStop);
  }
  if (drawn_ == options_.max_tokens) return finish(engine, FinishReason::kLength);
  if (!sequence.tail_holds(1)) {
    if (options_.confirm) engine.wait_confirmed(*this, drawn_);
    if (cancelled) return finish(engine, FinishReason::kCancelled);
    if (engine.stopping()) return false;
    LONGHAUL_TRY(sequence.evict_tail());
  }
  LONGHAUL_TRY(sequence.extend({&token, 1}));
  sequence.pending.reset();
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
