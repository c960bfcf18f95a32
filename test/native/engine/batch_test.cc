// Several answers at once: what shares a pass is what it would be alone, and takes its turn.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <random>

#include "engine_client.h"
#include "random_model.h"

namespace longhaul {
namespace {

using testing::EngineClient;
using testing::RandomModel;

std::vector<int32_t> random_tokens(uint32_t seed, size_t count) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % 64);
  return tokens;
}

MemoryPolicy bounded(PolicyKind kind, int32_t tail) {
  MemoryPolicy policy;
  policy.kind = kind;
  policy.budgets = {24, 24};
  policy.block = 16;
  policy.tail = tail;
  policy.window = 4;
  return policy;
}

// What one caller asks for.
struct Request {
  MemoryPolicy policy;
  size_t history;
  size_t question;
  GenerateOptions options;
};

// Policies, lengths and ways to draw that have little in common; tails that fill up in mid-answer.
std::vector<Request> requests() {
  std::vector<Request> all;
  for (uint32_t i = 0; i < 7; ++i) {
    Request request;
    if (i % 3 == 0) request.policy.block = 16;  // policy full
    if (i % 3 == 1) request.policy = bounded(PolicyKind::kStreaming, 8);
    if (i % 3 == 2) request.policy = bounded(PolicyKind::kSnapKv, 12);
    request.history = 20 + 23 * i;
    request.question = 1 + 2 * i;
    request.options.max_tokens = static_cast<int32_t>(20 + 9 * i);
    request.options.params.temperature = i % 2 == 0 ? 0.0f : 1.0f;
    request.options.params.repetition_penalty = i % 4 < 2 ? 1.0f : 1.3f;
    request.options.params.seed = 5 + i;
    all.push_back(request);
  }
  return all;
}

class BatchTest : public ::testing::Test {
 protected:
  void SetUp() override { testing::write_model(RandomModel(), directory_.path()); }
  const std::string& model() const { return directory_.path(); }

  static uint64_t ask(EngineClient& client, const Request& request, uint32_t seed) {
    const uint64_t sequence = client.sequence(request.policy);
    client.last(client->ingest(sequence, random_tokens(seed, request.history)));
    return client->generate(sequence, random_tokens(seed + 100, request.question), request.options);
  }

  // Each in an engine that does nothing else meanwhile.
  std::vector<std::vector<int32_t>> alone() const {
    EngineClient client(model());
    std::vector<std::vector<int32_t>> answers;
    uint32_t seed = 0;
    for (const Request& request : requests()) {
      const uint64_t task = ask(client, request, seed++);
      EXPECT_EQ(client.last(task).finish, FinishReason::kLength);
      answers.push_back(client.tokens(task));
    }
    return answers;
  }

 private:
  TemporaryDirectory directory_;
};

// Holds the thread until all questions are in, so that all answers are under way together.
struct Together {
  explicit Together(const std::string& model, int64_t max_batch)
      : client(
            model, [this](Engine&, const Event& event) { gate.hold(event, holder); }, 4 << 20, max_batch) {}

  std::vector<uint64_t> start(const std::vector<Request>& all) {
    std::vector<uint64_t> sequences;
    for (uint32_t i = 0; i < all.size(); ++i) {
      sequences.push_back(client.sequence(all[i].policy));
      client.last(client->ingest(sequences.back(), random_tokens(i, all[i].history)));
    }
    holder = client.last(client->truncate(sequences[0], 0)).task + 1;
    client->score(random_tokens(1, 4), {});
    gate.wait_until_held();
    std::vector<uint64_t> tasks;
    for (uint32_t i = 0; i < all.size(); ++i) {
      tasks.push_back(client->generate(sequences[i], random_tokens(i + 100, all[i].question), all[i].options));
    }
    gate.open();
    return tasks;
  }

  testing::Gate gate;
  std::atomic<uint64_t> holder{UINT64_MAX};
  EngineClient client;
};

TEST_F(BatchTest, AnswersTogetherAreThoseAlone) {
  const std::vector<std::vector<int32_t>> expected = alone();
  for (int64_t max_batch : {32, 3, 1}) {
    Together together(model(), max_batch);
    const std::vector<uint64_t> tasks = together.start(requests());
    for (size_t i = 0; i < tasks.size(); ++i) {
      EXPECT_EQ(together.client.last(tasks[i]).finish, FinishReason::kLength);
      EXPECT_EQ(together.client.tokens(tasks[i]), expected[i])
          << "request " << i << ", batches of " << max_batch;
    }
  }
}

// No answer is ahead of another by more than the turns that it took to begin and to evict.
TEST_F(BatchTest, AnswersTakeTurnsWhereABatchCannotHoldThemAll) {
  std::vector<Request> all(5);
  for (Request& request : all) {
    request.history = 10;
    request.question = 3;
    request.options.max_tokens = 60;
  }
  Together together(model(), 2);
  const std::vector<uint64_t> tasks = together.start(all);
  for (uint64_t task : tasks) together.client.last(task);
  std::vector<size_t> told(tasks.size());
  bool begun = false;
  for (const Event& event : together.client.events()) {
    const auto task = std::find(tasks.begin(), tasks.end(), event.task);
    if (task == tasks.end() || event.kind != EventKind::kTokens) continue;
    told[static_cast<size_t>(task - tasks.begin())] += event.tokens.size();
    const auto [least, most] = std::minmax_element(told.begin(), told.end());
    begun = begun || *least > 0;
    EXPECT_LE(*most - *least, 6u);
  }
  EXPECT_TRUE(begun);
  EXPECT_EQ(told, std::vector<size_t>(tasks.size(), 60));
}

// Between two blocks of a history every answer under way gets on by a token.
TEST_F(BatchTest, ALongHistoryHoldsAnswersUpForABlockAtATime) {
  std::atomic<uint64_t> last_answer{UINT64_MAX};
  std::atomic<uint64_t> history{0};
  std::atomic<uint64_t> ingest{UINT64_MAX};
  // Begins when all answers are under way, whatever the machine is busy with.
  EngineClient client(model(), [&](Engine& engine, const Event& event) {
    if (event.task != last_answer || event.kind != EventKind::kTokens || ingest != UINT64_MAX) return;
    ingest = engine.ingest(history, random_tokens(9, 16 * 20));
  });
  history = client.sequence(bounded(PolicyKind::kStreaming, 16));
  std::vector<uint64_t> sequences;
  for (int i = 0; i < 3; ++i) sequences.push_back(client.sequence(MemoryPolicy()));
  last_answer = client.last(client->truncate(history, 0)).task + 3;
  std::vector<uint64_t> answers;
  for (uint32_t i = 0; i < 3; ++i) {
    const GenerateOptions options{.max_tokens = 2000, .params = {.temperature = 1, .seed = i}};
    answers.push_back(client->generate(sequences[i], random_tokens(i, 5), options));
  }
  client.wait_for_tokens(last_answer, 1);
  client.last(ingest);
  for (uint64_t answer : answers) client->cancel(answer);
  for (uint64_t answer : answers) client.last(answer);

  int blocks = 0;
  std::vector<int> since(answers.size());
  for (const Event& event : client.events()) {
    const auto answer = std::find(answers.begin(), answers.end(), event.task);
    if (answer != answers.end() && event.kind == EventKind::kTokens) {
      since[static_cast<size_t>(answer - answers.begin())] += static_cast<int>(event.tokens.size());
    }
    if (event.task != ingest || event.kind != EventKind::kProgress) continue;
    if (++blocks > 1) EXPECT_EQ(since, std::vector<int>(answers.size(), 1)) << "before block " << blocks;
    since.assign(answers.size(), 0);
  }
  EXPECT_EQ(blocks, 20);
}

// A question that comes while a history is taken in waits for the block under way, and at most one more.
TEST_F(BatchTest, AShortQuestionWaitsForABlockAndNotForAHistory) {
  std::atomic<uint64_t> ingest{UINT64_MAX};
  std::atomic<uint64_t> sequence{0};
  std::atomic<uint64_t> question{UINT64_MAX};
  EngineClient client(model(), [&](Engine& engine, const Event& event) {
    if (event.task != ingest || event.kind != EventKind::kProgress || event.done != 16 * 5) return;
    question = engine.generate(sequence, random_tokens(3, 4), {.max_tokens = 1});
  });
  sequence = client.sequence(MemoryPolicy());
  const uint64_t history = client.sequence(bounded(PolicyKind::kStreaming, 16));
  ingest = client.last(client->truncate(history, 0)).task + 1;
  client.last(client->ingest(history, random_tokens(9, 16 * 20)));
  client.last(question);
  int64_t taken_in = 0;
  for (const Event& event : client.events()) {
    if (event.task == ingest && event.kind == EventKind::kProgress) taken_in = event.done;
    if (event.task == question && event.kind == EventKind::kTokens) break;
  }
  EXPECT_GE(taken_in, 16 * 5);
  EXPECT_LE(taken_in, 16 * 6);
}

// One that waits for its reader stops nobody else.
TEST_F(BatchTest, AnAnswerThatWaitsForItsReaderHoldsNobodyUp) {
  EngineClient client(model());
  GenerateOptions options{.max_tokens = 30, .confirm = true};
  const uint64_t doubted = client.sequence(bounded(PolicyKind::kStreaming, 4));
  const uint64_t waiting = client->generate(doubted, random_tokens(1, 2), options);
  client.wait_for_tokens(waiting, 3);
  const uint64_t other = client.sequence(MemoryPolicy());
  EXPECT_EQ(client.last(client->generate(other, random_tokens(2, 8), {.max_tokens = 40})).finish,
            FinishReason::kLength);
  EXPECT_EQ(client.tokens(waiting).size(), 3u);
  client->confirm(waiting, 30);
  EXPECT_EQ(client.last(waiting).finish, FinishReason::kLength);
}

}  // namespace
}  // namespace longhaul
