#include "engine/tasks.h"

#include <algorithm>
#include <cmath>

namespace longhaul {

Result<bool> CallTask::step(Engine& engine) {
  LONGHAUL_TRY(call_(engine, id));
  return true;
}

Result<bool> IngestTask::step(Engine& engine) {
  const auto told = [&] { return static_cast<int64_t>(done_ - std::min(done_, pending_)); };
  // Looked at once a step: what is admitted below also runs below, or a pending token would be lost between.
  if (cancelled) {
    engine.tell({.task = id,
                 .kind = EventKind::kDone,
                 .done = told(),
                 .total = static_cast<int64_t>(tokens_.size() - pending_),
                 .finish = FinishReason::kCancelled});
    return true;
  }
  LONGHAUL_ASSIGN(Sequence * sequence, engine.find(sequence_));
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
  }
  const int64_t total = static_cast<int64_t>(tokens_.size() - pending_);
  const size_t count = std::min(tokens_.size() - done_, static_cast<size_t>(sequence->policy().block));
  LONGHAUL_TRY(sequence->prefill({tokens_.data() + done_, count}));
  done_ += count;
  const bool finished = done_ == tokens_.size();
  engine.tell({.task = id, .kind = EventKind::kProgress, .done = told(), .total = total});
  if (finished) engine.tell({.task = id, .kind = EventKind::kDone, .done = told(), .total = total});
  return finished;
}

namespace {

// A cache of its own for work outside any conversation.
Result<std::unique_ptr<Sequence>> scratch_sequence(Engine& engine, const std::vector<int32_t>& tokens) {
  LONGHAUL_TRY(engine.check_tokens(tokens));
  LONGHAUL_ASSIGN(std::unique_ptr<Sequence> sequence,
                  Sequence::create(engine.model(), engine.pool(), MemoryPolicy()));
  LONGHAUL_TRY(sequence->admit(static_cast<int64_t>(tokens.size())));
  return sequence;
}

bool stop_if_cancelled(Engine& engine, const Task& task, std::unique_ptr<Sequence>& scratch) {
  if (!task.cancelled) return false;
  scratch.reset();  // whoever hears of the end finds its memory free
  engine.tell({.task = task.id, .kind = EventKind::kDone, .finish = FinishReason::kCancelled});
  return true;
}

// log softmax(logits)[token], summed in double.
float log_probability(const float* logits, int64_t vocab, int32_t token) {
  const double most = *std::max_element(logits, logits + vocab);
  double sum = 0;
  for (int64_t i = 0; i < vocab; ++i) sum += std::exp(static_cast<double>(logits[i]) - most);
  return static_cast<float>(static_cast<double>(logits[token]) - most - std::log(sum));
}

}  // namespace

Result<bool> ScoreTask::step(Engine& engine) {
  if (stop_if_cancelled(engine, *this, sequence_)) return true;
  if (sequence_ == nullptr) {
    if (tokens_.empty()) return invalid_argument("there is no token to score");
    LONGHAUL_ASSIGN(sequence_, scratch_sequence(engine, tokens_));
  }
  const size_t count = std::min(tokens_.size() - done_, static_cast<size_t>(sequence_->policy().block));
  LONGHAUL_TRY(sequence_->extend({tokens_.data() + done_, count}));

  const int64_t vocab = engine.model().config().vocab_size;
  std::vector<float> chunk;
  for (size_t row = 0; row < count; row += Transformer::kLogitRows) {
    const size_t rows = std::min(count - row, static_cast<size_t>(Transformer::kLogitRows));
    LONGHAUL_ASSIGN(const Tensor logits,
                    engine.model().logits(static_cast<int64_t>(row), static_cast<int64_t>(rows)));
    chunk.resize(rows * static_cast<size_t>(vocab));
    LONGHAUL_TRY(engine.model().backend().download(engine.model().stream(), chunk.data(), logits.data,
                                                   chunk.size() * sizeof(float)));
    for (size_t i = 0; i < rows; ++i) {
      const size_t next = done_ + row + i + 1;
      if (next < tokens_.size()) {
        log_probabilities_.push_back(
            log_probability(chunk.data() + i * static_cast<size_t>(vocab), vocab, tokens_[next]));
      }
    }
    if (options_.logits) logits_.insert(logits_.end(), chunk.begin(), chunk.end());
  }
  done_ += count;
  const int64_t done = static_cast<int64_t>(done_);
  const int64_t total = static_cast<int64_t>(tokens_.size());
  if (done < total) {
    engine.tell({.task = id, .kind = EventKind::kProgress, .done = done, .total = total});
    return false;
  }
  sequence_.reset();
  log_probabilities_.insert(log_probabilities_.end(), logits_.begin(), logits_.end());
  engine.tell({.task = id,
               .kind = EventKind::kDone,
               .done = done,
               .total = total,
               .values = std::move(log_probabilities_)});
  return true;
}

Result<bool> EmbedTask::step(Engine& engine) {
  if (stop_if_cancelled(engine, *this, sequence_)) return true;
  if (sequence_ == nullptr) {
    if (tokens_.empty()) return invalid_argument("there is no token to embed");
    LONGHAUL_ASSIGN(sequence_, scratch_sequence(engine, tokens_));
    sum_.assign(static_cast<size_t>(engine.model().config().hidden_size), 0.0);
  }
  const size_t count = std::min(tokens_.size() - done_, static_cast<size_t>(sequence_->policy().block));
  LONGHAUL_TRY(sequence_->extend({tokens_.data() + done_, count}));
  done_ += count;
  const bool finished = done_ == tokens_.size();

  const Tensor hidden = engine.model().hidden_rows();
  const size_t row_bytes = sum_.size() * size_of(hidden.dtype);
  std::vector<char> row(row_bytes);
  for (size_t i = pooling_ == Pooling::kMean ? 0 : count - 1; i < count; ++i) {
    if (pooling_ == Pooling::kLast && !finished) break;
    LONGHAUL_TRY(engine.model().backend().download(engine.model().stream(), row.data(),
                                                   hidden.slice(static_cast<int64_t>(i), 1).data, row_bytes));
    for (size_t j = 0; j < sum_.size(); ++j) {
      sum_[j] += hidden.dtype == DType::kF32 ? reinterpret_cast<const float*>(row.data())[j]
                                             : to_f32(reinterpret_cast<const Bf16*>(row.data())[j]);
    }
  }
  const int64_t done = static_cast<int64_t>(done_);
  const int64_t total = static_cast<int64_t>(tokens_.size());
  if (!finished) {
    engine.tell({.task = id, .kind = EventKind::kProgress, .done = done, .total = total});
    return false;
  }
  sequence_.reset();
  const double divisor = pooling_ == Pooling::kMean ? static_cast<double>(tokens_.size()) : 1.0;
  std::vector<float> values;
  for (double sum : sum_) values.push_back(static_cast<float>(sum / divisor));
  engine.tell(
      {.task = id, .kind = EventKind::kDone, .done = done, .total = total, .values = std::move(values)});
  return true;
}

}  // namespace longhaul
