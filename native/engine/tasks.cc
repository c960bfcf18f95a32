#include "engine/tasks.h"

#include <algorithm>
#include <cmath>

namespace longhaul {

Result<bool> CallTask::step(Engine& engine) {
  LONGHAUL_TRY(call_(engine, id));
  return true;
}

std::optional<Event> CallTask::cancelled_event() const {
  if (!cancellable_) return std::nullopt;
  return Event{.task = id, .kind = EventKind::kDone, .finish = FinishReason::kCancelled};
}

std::optional<Event> IngestTask::cancelled_event() const {
  return Event{.task = id,
               .kind = EventKind::kDone,
               .done = told(),
               .total = total(),
               .finish = FinishReason::kCancelled};
}

Result<bool> IngestTask::step(Engine& engine) {
  LONGHAUL_ASSIGN(Sequence * sequence, engine.find(sequence_));
  // Looked at once a step: what is admitted below also runs below, or a pending token would be lost between.
  if (cancelled) {
    LONGHAUL_TRY(sequence->give_back());
    engine.tell(*cancelled_event());
    return true;
  }
  if (!admitted_) {
    LONGHAUL_TRY(engine.check_tokens(tokens_));
    LONGHAUL_TRY(sequence->admit(static_cast<int64_t>(tokens_.size())));
    admitted_ = true;
    if (tokens_.empty()) {
      engine.tell({.task = id, .kind = EventKind::kDone});
      return true;
    }
    if (sequence->pending) {
      pending_ = 1;
      tokens_.insert(tokens_.begin(), *sequence->pending);
      sequence->pending.reset();
    }
    into_tail_ = into_tail_ && sequence->tail_holds(static_cast<int64_t>(tokens_.size()));
  }
  const size_t count = std::min(tokens_.size() - done_, static_cast<size_t>(sequence->policy().block));
  const std::span<const int32_t> block(tokens_.data() + done_, count);
  LONGHAUL_TRY(into_tail_ ? sequence->extend(block) : sequence->prefill(block));
  done_ += count;
  const bool finished = done_ == tokens_.size();
  engine.tell({.task = id, .kind = EventKind::kProgress, .done = told(), .total = total()});
  if (finished) engine.tell({.task = id, .kind = EventKind::kDone, .done = told(), .total = total()});
  return finished;
}

std::optional<Event> ReadTask::cancelled_event() const {
  return Event{.task = id, .kind = EventKind::kDone, .finish = FinishReason::kCancelled};
}

Result<bool> ReadTask::step(Engine& engine) {
  if (cancelled) {
    sequence_.reset();  // whoever hears of the end finds its memory free
    engine.tell(*cancelled_event());
    return true;
  }
  if (sequence_ == nullptr) {
    if (tokens_.empty()) return invalid_argument("there is no token to read");
    LONGHAUL_TRY(engine.check_tokens(tokens_));
    LONGHAUL_ASSIGN(sequence_, Sequence::create(engine.model(), engine.pool(), MemoryPolicy()));
    LONGHAUL_TRY(sequence_->admit(static_cast<int64_t>(tokens_.size())));
  }
  const size_t count = std::min(tokens_.size() - done_, static_cast<size_t>(sequence_->policy().block));
  LONGHAUL_TRY(sequence_->extend({tokens_.data() + done_, count}));
  LONGHAUL_TRY(read(engine, done_, count));
  done_ += count;
  const bool finished = done_ == tokens_.size();
  if (finished) sequence_.reset();
  engine.tell({.task = id,
               .kind = finished ? EventKind::kDone : EventKind::kProgress,
               .done = static_cast<int64_t>(done_),
               .total = static_cast<int64_t>(tokens_.size()),
               .values = finished ? take_values() : std::vector<float>()});
  return finished;
}

namespace {

// log softmax(logits)[token], summed in double.
float log_probability(const float* logits, int64_t vocab, int32_t token) {
  const double most = *std::max_element(logits, logits + vocab);
  double sum = 0;
  for (int64_t i = 0; i < vocab; ++i) sum += std::exp(static_cast<double>(logits[i]) - most);
  return static_cast<float>(static_cast<double>(logits[token]) - most - std::log(sum));
}

}  // namespace

Status ScoreTask::read(Engine& engine, size_t begin, size_t count) {
  Transformer& model = engine.model();
  const int64_t vocab = model.config().vocab_size;
  std::vector<float> chunk;
  for (size_t row = 0; row < count; row += Transformer::kLogitRows) {
    const size_t rows = std::min(count - row, static_cast<size_t>(Transformer::kLogitRows));
    LONGHAUL_ASSIGN(const Tensor logits, model.logits(static_cast<int64_t>(row), static_cast<int64_t>(rows)));
    chunk.resize(rows * static_cast<size_t>(vocab));
    LONGHAUL_TRY(
        model.backend().download(model.stream(), chunk.data(), logits.data, chunk.size() * sizeof(float)));
    for (size_t i = 0; i < rows; ++i) {
      const size_t next = begin + row + i + 1;
      if (next < tokens().size()) {
        log_probabilities_.push_back(
            log_probability(chunk.data() + i * static_cast<size_t>(vocab), vocab, tokens()[next]));
      }
    }
    if (options_.logits) logits_.insert(logits_.end(), chunk.begin(), chunk.end());
  }
  return Status();
}

std::vector<float> ScoreTask::take_values() {
  log_probabilities_.insert(log_probabilities_.end(), logits_.begin(), logits_.end());
  return std::move(log_probabilities_);
}

Status EmbedTask::read(Engine& engine, size_t begin, size_t count) {
  Transformer& model = engine.model();
  sum_.resize(static_cast<size_t>(model.config().hidden_size));
  if (pooling_ == Pooling::kLast && begin + count < tokens().size()) return Status();
  const Tensor hidden = model.hidden_rows();
  std::vector<char> row(sum_.size() * size_of(hidden.dtype));
  for (size_t i = pooling_ == Pooling::kMean ? 0 : count - 1; i < count; ++i) {
    LONGHAUL_TRY(model.backend().download(model.stream(), row.data(),
                                          hidden.slice(static_cast<int64_t>(i), 1).data, row.size()));
    for (size_t j = 0; j < sum_.size(); ++j) {
      sum_[j] += hidden.dtype == DType::kF32 ? reinterpret_cast<const float*>(row.data())[j]
                                             : to_f32(reinterpret_cast<const Bf16*>(row.data())[j]);
    }
  }
  return Status();
}

std::vector<float> EmbedTask::take_values() {
  const double divisor = pooling_ == Pooling::kMean ? static_cast<double>(tokens().size()) : 1.0;
  std::vector<float> values;
  for (double sum : sum_) values.push_back(static_cast<float>(sum / divisor));
  return values;
}

}  // namespace longhaul
