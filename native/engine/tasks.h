// The kinds of work an engine runs, one step at a time.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/engine.h"

namespace longhaul {

// Of a task, see Task::lanes.
using Lanes = std::vector<uint64_t>;

// One step: a function of the engine that tells its own kDone event.
class CallTask final : public Task {
 public:
  explicit CallTask(std::function<Status(Engine&, uint64_t id)> call, Lanes lanes, bool cancellable = false)
      : call_(std::move(call)), lanes_(std::move(lanes)), cancellable_(cancellable) {}
  Result<bool> step(Engine& engine) override;
  std::optional<Event> cancelled_event() const override;
  std::span<const uint64_t> lanes() const override { return lanes_; }

 private:
  std::function<Status(Engine&, uint64_t id)> call_;
  Lanes lanes_;
  bool cancellable_;
};

// A step is a block.
class IngestTask final : public Task {
 public:
  IngestTask(uint64_t sequence, std::vector<int32_t> tokens)
      : sequence_(sequence), tokens_(std::move(tokens)) {}
  Result<bool> step(Engine& engine) override;
  std::optional<Event> cancelled_event() const override;
  std::span<const uint64_t> lanes() const override { return {&sequence_, 1}; }

 private:
  // Of the tokens given; one that was pending before them is not counted.
  int64_t told() const { return static_cast<int64_t>(done_ - std::min(done_, pending_)); }
  int64_t total() const { return static_cast<int64_t>(tokens_.size() - pending_); }

  uint64_t sequence_;
  std::vector<int32_t> tokens_;
  size_t done_ = 0;
  size_t pending_ = 0;  // 1 when the sequence's pending token leads tokens_
  bool admitted_ = false;
};

// Takes the same tokens into several sequences, whose blocks are of one size. A step is a block of all of them.
class IngestTogetherTask final : public Task {
 public:
  IngestTogetherTask(std::vector<uint64_t> sequences, std::vector<int32_t> tokens)
      : sequences_(std::move(sequences)), tokens_(std::move(tokens)) {}
  Result<bool> step(Engine& engine) override;
  std::optional<Event> cancelled_event() const override;
  std::span<const uint64_t> lanes() const override { return sequences_; }

 private:
  Status admit(Engine& engine, std::span<Sequence* const> sequences) const;

  std::vector<uint64_t> sequences_;
  std::vector<int32_t> tokens_;
  size_t done_ = 0;
  bool admitted_ = false;
};

// Steps are the blocks of the question, the last of which draws the answer's first token, and evictions of a
// full tail; all other tokens are drawn together with those of other tasks.
class GenerateTask final : public Task {
 public:
  GenerateTask(uint64_t sequence, std::vector<int32_t> tokens, GenerateOptions options)
      : sequence_(sequence), tokens_(std::move(tokens)), options_(std::move(options)) {}
  Result<bool> step(Engine& engine) override;
  std::optional<Event> cancelled_event() const override;
  std::span<const uint64_t> lanes() const override { return {&sequence_, 1}; }
  GenerateTask* decoding() override;
  bool waiting() const override;

  // The next row of a draw for it.
  DrawRow draw_row(const Sequence& sequence) const;
  // A token was drawn. True when the answer ends with it.
  Result<bool> take(Engine& engine, Sequence& sequence, int32_t token);

 private:
  Status admit(Engine& engine, Sequence& sequence);
  Result<bool> question_step(Engine& engine, Sequence& sequence);
  Result<bool> finish(Engine& engine, FinishReason reason);
  // Question tokens in the stream; a token pending before them is not one.
  int64_t question_done() const { return static_cast<int64_t>(done_ - std::min(done_, pending_)); }

  uint64_t sequence_;
  std::vector<int32_t> tokens_;
  GenerateOptions options_;
  bool admitted_ = false;
  size_t pending_ = 0;    // 1 when the sequence's pending token leads tokens_
  bool in_tail_ = false;  // the question joins the tail, else it is prefilled and evicted block by block
  size_t done_ = 0;
  int32_t drawn_ = 0;
  bool tail_full_ = false;  // the token drawn last cannot run before an eviction
  SeenTokens seen_;
};

// Reads tokens outside any conversation. A step is a block of a sequence of its own, with policy `full`.
class ReadTask : public Task {
 public:
  explicit ReadTask(std::vector<int32_t> tokens) : tokens_(std::move(tokens)) {}
  Result<bool> step(Engine& engine) final;
  std::optional<Event> cancelled_event() const final;
  std::span<const uint64_t> lanes() const final { return {&kReading, 1}; }

 protected:
  const std::vector<int32_t>& tokens() const { return tokens_; }

 private:
  // tokens()[begin, begin + count) have run; row i of the pass is tokens()[begin + i].
  virtual Status read(Engine& engine, size_t begin, size_t count) = 0;
  virtual std::vector<float> take_values() = 0;

  std::vector<int32_t> tokens_;
  std::unique_ptr<Sequence> sequence_;
  size_t done_ = 0;
};

class ScoreTask final : public ReadTask {
 public:
  ScoreTask(std::vector<int32_t> tokens, ScoreOptions options)
      : ReadTask(std::move(tokens)), options_(options) {}

 private:
  Status read(Engine& engine, size_t begin, size_t count) override;
  std::vector<float> take_values() override;

  ScoreOptions options_;
  std::vector<float> log_probabilities_;
  std::vector<float> logits_;
};

class EmbedTask final : public ReadTask {
 public:
  EmbedTask(std::vector<int32_t> tokens, Pooling pooling) : ReadTask(std::move(tokens)), pooling_(pooling) {}

 private:
  Status read(Engine& engine, size_t begin, size_t count) override;
  std::vector<float> take_values() override;

  Pooling pooling_;
  std::vector<double> sum_;  // [hidden]
};

// Profiles the layers by one text. A step is a block.
class ProfileTask final : public Task {
 public:
  ProfileTask(std::vector<int32_t> tokens, const ProfileOptions& options)
      : tokens_(std::move(tokens)), options_(options) {}
  Result<bool> step(Engine& engine) override;
  std::optional<Event> cancelled_event() const override;
  std::span<const uint64_t> lanes() const override { return {&kReading, 1}; }

 private:
  std::vector<int32_t> tokens_;  // until profile_ has them
  ProfileOptions options_;
  std::unique_ptr<LayerProfile> profile_;
};

}  // namespace longhaul
