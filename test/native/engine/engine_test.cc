// The engine's thread and its tasks, as callers on other threads see them.
#include "engine/engine.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <limits>
#include <random>
#include <thread>

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

MemoryPolicy streaming(int32_t budget, int32_t tail) {
  MemoryPolicy policy;
  policy.kind = PolicyKind::kStreaming;
  policy.budgets = {budget, budget};
  policy.block = 16;
  policy.tail = tail;
  return policy;
}

GenerateOptions sampled(int32_t max_tokens) {
  return {.max_tokens = max_tokens, .params = {.temperature = 1, .seed = 5}};
}

class EngineTest : public ::testing::Test {
 protected:
  void SetUp() override { testing::write_model(RandomModel(), directory_.path()); }
  const std::string& model() const { return directory_.path(); }

 private:
  TemporaryDirectory directory_;
};

TEST_F(EngineTest, TasksOfASequenceRunInTheOrderTheyCame) {
  EngineClient client(model());
  const uint64_t sequence = client.sequence(streaming(32, 16));
  const std::vector<uint64_t> tasks{
      client->ingest(sequence, random_tokens(1, 50)),
      client->generate(sequence, random_tokens(3, 4), sampled(5)), client->truncate(sequence, 2),
      client->ingest(sequence, random_tokens(2, 20)), client->release_sequence(sequence)};
  client.last(tasks.back());
  std::vector<uint64_t> finished;
  for (const Event& event : client.events()) {
    if (!testing::is_last(event)) continue;
    EXPECT_EQ(event.kind, EventKind::kDone) << event.status.message();
    finished.push_back(event.task);
  }
  std::vector<uint64_t> expected{0, tasks[0] - 1};  // loading, the sequence's making
  expected.insert(expected.end(), tasks.begin(), tasks.end());
  EXPECT_EQ(finished, expected);
}

TEST_F(EngineTest, CancelOfARunningTaskTakesEffectBetweenBlocks) {
  std::atomic<uint64_t> victim{UINT64_MAX};
  EngineClient client(model(), [&](Engine& engine, const Event& event) {
    if (event.task == victim && event.kind == EventKind::kProgress) engine.cancel(event.task);
  });
  const uint64_t sequence = client.sequence(streaming(32, 16));
  // Ids count up: the next task is the victim, known before it starts.
  victim = client.last(client->score(random_tokens(2, 4), {})).task + 1;
  const Event ingested = client.last(client->ingest(sequence, random_tokens(1, 100)));
  EXPECT_EQ(ingested.kind, EventKind::kDone);
  EXPECT_EQ(ingested.finish, FinishReason::kCancelled);
  EXPECT_EQ(ingested.done, 16) << "what the first block told is in the cache, and nothing else";
  EXPECT_EQ(client->sequence_memory(sequence).value().tokens_seen, 16);

  victim = ingested.task + 1;
  const Event scored = client.last(client->score(random_tokens(2, 2000), {}));
  EXPECT_EQ(scored.finish, FinishReason::kCancelled);
  EXPECT_EQ(client->memory().reserved_bytes, client->sequence_memory(sequence).value().reserved_bytes)
      << "the pages of the score are free again when its end is told";
}

TEST_F(EngineTest, CancelOfAQueuedTaskLeavesNothingBehind) {
  testing::Gate gate;
  std::atomic<uint64_t> holder{UINT64_MAX};
  EngineClient client(model(), [&](Engine&, const Event& event) { gate.hold(event, holder); });
  const uint64_t held = client.sequence(streaming(32, 4));
  const uint64_t full = client.sequence(MemoryPolicy());
  holder = client.last(client->truncate(full, 0)).task + 1;
  client->ingest(held, random_tokens(1, 40));
  gate.wait_until_held();

  const std::vector<uint64_t> queued{
      client->ingest(full, random_tokens(2, 100)), client->generate(full, random_tokens(3, 10), sampled(4)),
      client->score(random_tokens(4, 100), {}), client->embed(random_tokens(4, 100), Pooling::kLast)};
  const uint64_t creation = client->create_sequence(MemoryPolicy());
  const uint64_t forgetting = client->truncate(full, 0);
  const auto ended = [&](uint64_t task) {
    const std::vector<Event> events = client.events();
    return std::any_of(events.begin(), events.end(),
                       [&](const Event& event) { return event.task == task && testing::is_last(event); });
  };
  for (uint64_t task : queued) client->cancel(task);
  client->cancel(creation);
  client->cancel(forgetting);
  EXPECT_FALSE(ended(forgetting)) << "what is one step runs at its turn";
  for (uint64_t task : queued) {
    ASSERT_TRUE(ended(task)) << "task " << task << " waits for its turn";
    const Event event = client.last(task);
    EXPECT_EQ(event.kind, EventKind::kDone);
    EXPECT_EQ(event.finish, FinishReason::kCancelled);
    EXPECT_EQ(event.done, 0);
    EXPECT_EQ(event.total, task == queued[0] ? 100 : 0);
  }
  ASSERT_TRUE(ended(creation));
  EXPECT_EQ(client.last(creation).finish, FinishReason::kCancelled);
  EXPECT_EQ(client.last(creation).sequence, 0u);
  gate.open();
  client.last(holder);
  EXPECT_EQ(client.last(forgetting).kind, EventKind::kDone);
  const SequenceMemory memory = client->sequence_memory(full).value();
  EXPECT_EQ(memory.tokens_seen, 0);
  EXPECT_EQ(memory.reserved_bytes, 0);
  EXPECT_EQ(client->memory().reserved_bytes, client->sequence_memory(held).value().reserved_bytes);
}

// Policy `full` reserves for what it is asked to do; what was not done after all must not keep pages from
// others.
TEST_F(EngineTest, PagesOfWorkThatEndsEarlyAreGivenBack) {
  std::atomic<uint64_t> victim{UINT64_MAX};
  EngineClient client(model(), [&](Engine& engine, const Event& event) {
    if (event.task == victim && event.kind == EventKind::kProgress) engine.cancel(event.task);
  });
  MemoryPolicy full;
  full.block = 16;
  const std::vector<int32_t> history = random_tokens(1, 100);
  const uint64_t whole = client.sequence(full);
  client->ingest(whole, history);
  const uint64_t expected = client->generate(whole, random_tokens(2, 5), sampled(12));
  client.last(expected);

  const uint64_t sequence = client.sequence(full);
  const auto expect_no_surplus = [&](int64_t tokens) {
    const SequenceMemory memory = client->sequence_memory(sequence).value();
    EXPECT_EQ(memory.tokens_seen, tokens);
    EXPECT_EQ(memory.reserved_bytes, memory.used_bytes);
    EXPECT_EQ(client->memory().reserved_bytes,
              memory.reserved_bytes + client->sequence_memory(whole).value().reserved_bytes);
  };
  victim = client.last(client->truncate(sequence, 0)).task + 1;
  EXPECT_EQ(client.last(client->ingest(sequence, history)).finish, FinishReason::kCancelled);
  expect_no_surplus(16);
  EXPECT_EQ(client.last(client->ingest(sequence, {history.begin() + 16, history.end()})).done, 84);
  expect_no_surplus(100);

  // An answer that stops, and one that is taken back whole.
  GenerateOptions stopped = sampled(500);
  for (int32_t token = 0; token < 64; ++token) stopped.stop_tokens.push_back(token);
  EXPECT_EQ(client.last(client->generate(sequence, random_tokens(2, 5), stopped)).finish, FinishReason::kStop);
  expect_no_surplus(105);
  EXPECT_EQ(client.last(client->truncate(sequence, 6)).kind, EventKind::kDone);
  expect_no_surplus(100);

  const uint64_t task = client->generate(sequence, random_tokens(2, 5), sampled(12));
  EXPECT_EQ(client.last(task).finish, FinishReason::kLength);
  EXPECT_EQ(client.tokens(task), client.tokens(expected)) << "pages that came and went hold the same rows";
}

TEST_F(EngineTest, TokensOfASlowReaderComeAsOneEvent) {
  std::atomic<int> notices{0};
  Engine engine({.directory = model(), .threads = 2, .kv_bytes = 4 << 20}, [&] { ++notices; });
  const auto wait_until = [](const auto& condition) {
    while (!condition()) std::this_thread::yield();
  };
  engine.create_sequence(streaming(32, 64));
  wait_until([&] { return engine.sequence_memory(1).ok(); });
  wait_until([&] {
    const std::vector<Event> events = engine.take_events();
    return !events.empty() && events.back().sequence == 1;
  });

  const int before = notices;
  engine.generate(1, random_tokens(1, 4), sampled(20));
  engine.release_sequence(1);
  wait_until([&] { return !engine.sequence_memory(1).ok(); });
  // The numbers are published just before the event is there.
  std::vector<Event> events;
  wait_until([&] {
    for (Event& event : engine.take_events()) events.push_back(std::move(event));
    return testing::is_last(events.back()) && events.back().task == 3;
  });
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(events[0].kind, EventKind::kProgress);
  EXPECT_EQ(events[1].tokens.size(), 20u);
  EXPECT_EQ(events[2].finish, FinishReason::kLength);
  // One for the answer, one for the release; that of the sequence's making may still have been on its way.
  EXPECT_LE(notices - before, 3);
}

TEST_F(EngineTest, DisposalFailsEveryTask) {
  EngineClient client(model());
  const uint64_t sequence = client.sequence(streaming(32, 4));
  GenerateOptions options = sampled(8);
  options.confirm = true;
  const uint64_t holder = client->generate(sequence, random_tokens(1, 2), options);
  client.wait_for_tokens(holder, 3);
  const uint64_t behind = client->ingest(sequence, random_tokens(2, 10));
  const uint64_t last = client->release_sequence(sequence);
  client.dispose();
  for (uint64_t task : {holder, behind, last}) {
    const Event event = client.last(task);
    EXPECT_EQ(event.kind, EventKind::kFailed) << "task " << task;
    EXPECT_EQ(event.status.code(), Code::kDisposed) << "task " << task;
  }
}

TEST_F(EngineTest, EngineWithoutAModelFailsEveryTask) {
  EngineClient client(model() + "/nowhere");
  const Event loaded = client.last(0);
  ASSERT_EQ(loaded.kind, EventKind::kFailed);
  for (uint64_t task :
       {client->create_sequence(MemoryPolicy()), client->ingest(1, {1}), client->generate(1, {1}, {}),
        client->truncate(1, 1), client->score({1}, {}), client->embed({1}, Pooling::kMean),
        client->profile({1}, {}), client->export_sequence(1), client->export_rows(1, 0, 0),
        client->import_sequence({}), client->import_rows(1, 0, 0, {}), client->release_sequence(1)}) {
    const Event event = client.last(task);
    EXPECT_EQ(event.kind, EventKind::kFailed);
    EXPECT_EQ(event.status.code(), loaded.status.code());
    EXPECT_EQ(event.status.message(), loaded.status.message());
  }
  EXPECT_EQ(client->memory().pool_bytes, 0);
}

// Weights take seconds to minutes; a size that cannot be is known from the files' headers.
TEST_F(EngineTest, PoolThatCannotBeIsRefusedBeforeAnyWeightIsRead) {
  // 16 rows of f32 keys and values of 16 numbers each, and their positions.
  constexpr int64_t kPageBytes = 16 * (2 * 16 * 4 + 4);
  for (int64_t bytes : {kPageBytes - 1, int64_t{1} << 60}) {
    EngineClient client(model(), {}, bytes);
    EXPECT_EQ(client.last(0).status.code(), Code::kOutOfMemory);
    EXPECT_EQ(client.events().size(), 1u) << "no progress was told";
  }
  EngineClient client(model(), {}, kPageBytes);
  EXPECT_EQ(client.last(0).kind, EventKind::kDone);
  EXPECT_EQ(client->memory().pool_bytes, kPageBytes);
}

TEST_F(EngineTest, CancelOfTaskZeroStopsTheLoading) {
  EngineClient client(model(), [](Engine& engine, const Event& event) {
    if (event.task == 0 && event.kind == EventKind::kProgress) engine.cancel(0);
  });
  const Event loaded = client.last(0);
  EXPECT_EQ(loaded.kind, EventKind::kFailed);
  EXPECT_EQ(loaded.status.code(), Code::kCancelled);
}

TEST_F(EngineTest, RefusedWorkLeavesTheEngineServing) {
  EngineClient client(model());
  MemoryPolicy prompted = streaming(32, 16);
  prompted.kind = PolicyKind::kPatchedPrompt;
  prompted.prompt = {1, 64};
  EXPECT_EQ(client.last(client->create_sequence(prompted)).status.code(), Code::kInvalidArgument);
  const uint64_t sequence = client.sequence(streaming(32, 16));
  const std::vector<uint64_t> refused{client->ingest(sequence, {-1}),
                                      client->ingest(sequence, random_tokens(1, 5000)),
                                      client->generate(sequence, {}, sampled(3)),
                                      client->generate(sequence, {3}, sampled(0)),
                                      client->truncate(sequence, 1),
                                      client->truncate(sequence, -1),
                                      client->score({}, {}),
                                      client->embed({64}, Pooling::kMean)};
  for (uint64_t task : refused) {
    EXPECT_EQ(client.last(task).status.code(), Code::kInvalidArgument) << "task " << task;
  }
  EXPECT_EQ(client.last(client->generate(sequence, {3}, sampled(3))).finish, FinishReason::kLength);

  client->release_sequence(sequence);
  EXPECT_EQ(client.last(client->ingest(sequence, {1})).status.code(), Code::kDisposed);
  EXPECT_EQ(client->memory().reserved_bytes, 0);
}

TEST_F(EngineTest, OptionsPastAnyMemoryAreRefused) {
  constexpr int32_t kMost = std::numeric_limits<int32_t>::max();
  EngineClient client(model(), {}, 1 << 20);
  const uint64_t sequence = client.sequence(streaming(32, 16));
  std::vector<MemoryPolicy> huge(4, streaming(32, 16));
  huge[0].budgets = {kMost, kMost};
  huge[1].tail = kMost;
  huge[2].block = kMost;
  huge[3].kind = PolicyKind::kSnapKv;
  huge[3].budgets = {kMost, kMost};
  huge[3].window = kMost - 1;
  for (const MemoryPolicy& policy : huge) {
    EXPECT_EQ(client.last(client->create_sequence(policy)).status.code(), Code::kOutOfMemory);
  }
  EXPECT_EQ(client->memory().reserved_bytes, client->sequence_memory(sequence).value().reserved_bytes);
  EXPECT_EQ(client.last(client->score(random_tokens(1, 4000), {})).status.code(), Code::kOutOfMemory)
      << "a full cache of 4000 tokens is larger than the pool";
  EXPECT_EQ(client.last(client->generate(sequence, {3}, sampled(3))).finish, FinishReason::kLength);
}

// Finite weights can still overflow.
TEST_F(EngineTest, ValuesThatAreNoNumbersHarmNobody) {
  TemporaryDirectory directory;
  testing::write_model({.norm = 1e38f}, directory.path());
  EngineClient client(directory.path());
  for (PolicyKind kind : {PolicyKind::kStreaming, PolicyKind::kSnapKv, PolicyKind::kKeyDiff}) {
    MemoryPolicy policy = streaming(16, 8);
    policy.kind = kind;
    policy.window = 4;
    const uint64_t sequence = client.sequence(policy);
    EXPECT_EQ(client.last(client->ingest(sequence, random_tokens(1, 60))).done, 60);
    const uint64_t task = client->generate(sequence, {3}, sampled(20));
    EXPECT_EQ(client.last(task).finish, FinishReason::kLength);
    for (int32_t token : client.tokens(task)) EXPECT_TRUE(token >= 0 && token < 64) << token;
  }
  const std::vector<float> values = client.last(client->score(random_tokens(1, 20), {})).values;
  EXPECT_EQ(values.size(), 19u);
  EXPECT_TRUE(std::isnan(values.back())) << "the case is meant to overflow";
}

// After every last event: the engine's numbers are the sums of its sequences' numbers.
TEST_F(EngineTest, MemoryIsTheSumOfTheSequences) {
  EngineClient client(model());
  std::vector<uint64_t> sequences;
  for (const MemoryPolicy& policy : {streaming(32, 16), MemoryPolicy(), streaming(20, 8)}) {
    sequences.push_back(client.sequence(policy));
    client.last(client->ingest(sequences.back(), random_tokens(1, 70)));
    EngineMemory sum;
    for (uint64_t sequence : sequences) {
      const SequenceMemory memory = client->sequence_memory(sequence).value();
      sum.reserved_bytes += memory.reserved_bytes;
      sum.used_bytes += memory.used_bytes;
      sum.table_bytes += memory.table_bytes;
    }
    const EngineMemory memory = client->memory();
    EXPECT_EQ(memory.reserved_bytes, sum.reserved_bytes);
    EXPECT_EQ(memory.used_bytes, sum.used_bytes);
    EXPECT_EQ(memory.table_bytes, sum.table_bytes);
    EXPECT_GE(memory.peak_bytes, memory.used_bytes);
    EXPECT_LE(memory.peak_bytes, memory.pool_bytes);
  }
  for (uint64_t sequence : sequences) client.last(client->release_sequence(sequence));
  EXPECT_EQ(client->memory().reserved_bytes, 0);
  EXPECT_EQ(client->memory().used_bytes, 0);
  EXPECT_EQ(client->memory().table_bytes, 0);
}

TEST_F(EngineTest, TwoEnginesAtOnceDrawWhatOneDraws) {
  std::vector<std::unique_ptr<EngineClient>> clients;
  std::vector<uint64_t> tasks;
  for (int i = 0; i < 2; ++i) clients.push_back(std::make_unique<EngineClient>(model()));
  for (auto& client : clients) {
    const uint64_t sequence = client->sequence(streaming(24, 8));
    (*client)->ingest(sequence, random_tokens(1, 100));
    tasks.push_back((*client)->generate(sequence, random_tokens(2, 5), sampled(40)));
  }
  for (size_t i = 0; i < clients.size(); ++i) EXPECT_EQ(clients[i]->last(tasks[i]).kind, EventKind::kDone);
  const std::vector<int32_t> first = clients[0]->tokens(tasks[0]);
  EXPECT_EQ(first.size(), 40u);
  EXPECT_EQ(first, clients[1]->tokens(tasks[1]));
}

// The tail holds 4 rows: the question's two and two drawn tokens. The third cannot run before an eviction.
TEST_F(EngineTest, NoEvictionBeforeTheTokensToldAreConfirmed) {
  EngineClient client(model());
  GenerateOptions options = sampled(12);
  options.confirm = true;
  const uint64_t doubted = client.sequence(streaming(32, 4));
  client.last(client->ingest(doubted, random_tokens(1, 40)));
  const uint64_t task = client->generate(doubted, random_tokens(2, 2), options);
  client.wait_for_tokens(task, 3);
  client->confirm(task, 2);  // not all that was told
  client->cancel(task);
  EXPECT_EQ(client.last(task).finish, FinishReason::kCancelled);
  EXPECT_EQ(client.tokens(task).size(), 3u);
  EXPECT_EQ(client->sequence_memory(doubted).value().tail_rows, 4);
  EXPECT_EQ(client.last(client->truncate(doubted, 5)).kind, EventKind::kDone)
      << "all of question and answer can be taken back";
  EXPECT_EQ(client->sequence_memory(doubted).value().tokens_seen, 40);

  const uint64_t trusted = client->generate(doubted, random_tokens(2, 2), options);
  client->confirm(trusted, 12);
  EXPECT_EQ(client.last(trusted).finish, FinishReason::kLength);
  options.confirm = false;
  const uint64_t other = client.sequence(streaming(32, 4));
  client->ingest(other, random_tokens(1, 40));
  const uint64_t unasked = client->generate(other, random_tokens(2, 2), options);
  client.last(unasked);
  EXPECT_EQ(client.tokens(trusted), client.tokens(unasked));
}

// Draws are keyed by position, so that answers in pieces are the answer in one piece, whether the last token of
// a piece waits as the pending one or was taken back and is fed again.
TEST_F(EngineTest, AnAnswerInPiecesIsTheAnswerInOnePiece) {
  EngineClient client(model());
  MemoryPolicy full;
  const std::vector<int32_t> question = random_tokens(1, 9);
  const auto ask = [&](uint64_t sequence, const std::vector<int32_t>& tokens, int32_t max_tokens) {
    const uint64_t task = client->generate(sequence, tokens, sampled(max_tokens));
    EXPECT_EQ(client.last(task).kind, EventKind::kDone);
    return client.tokens(task);
  };
  const std::vector<int32_t> whole = ask(client.sequence(full), question, 12);
  ASSERT_EQ(whole.size(), 12u);

  const uint64_t pieces = client.sequence(full);
  std::vector<int32_t> tokens = ask(pieces, question, 5);
  EXPECT_EQ(client->sequence_memory(pieces).value().tokens_seen, 9 + 4) << "the fifth token is pending";
  for (int32_t token : ask(pieces, {}, 3)) tokens.push_back(token);

  // The pending token alone is taken back, then it and a row.
  EXPECT_EQ(client.last(client->truncate(pieces, 1)).kind, EventKind::kDone);
  EXPECT_EQ(client->sequence_memory(pieces).value().tokens_seen, 9 + 7);
  EXPECT_EQ(client.last(client->generate(pieces, {}, sampled(1))).status.code(), Code::kInvalidArgument);
  for (int32_t token : ask(pieces, {tokens.back()}, 2)) tokens.push_back(token);
  EXPECT_EQ(client.last(client->truncate(pieces, 2)).kind, EventKind::kDone);
  EXPECT_EQ(client->sequence_memory(pieces).value().tokens_seen, 9 + 8);
  for (int32_t token : ask(pieces, {tokens.end() - 2, tokens.end()}, 2)) tokens.push_back(token);
  EXPECT_EQ(tokens, whole);

  // Ingesting runs a pending token first, so that the stream is complete.
  EXPECT_EQ(client.last(client->ingest(pieces, random_tokens(2, 6))).done, 6);
  EXPECT_EQ(client->sequence_memory(pieces).value().tokens_seen, 9 + 12 + 6);
}

// Greedy tokens are the arg-max of each position's logits in one pass over the whole stream.
TEST_F(EngineTest, GreedyAnswerIsTheArgMaxOfTheWholeStream) {
  EngineClient client(model());
  std::vector<int32_t> stream = random_tokens(1, 9);
  const uint64_t task = client->generate(client.sequence(MemoryPolicy()), stream,
                                         {.max_tokens = 10, .params = {.temperature = 0}});
  client.last(task);
  for (int32_t token : client.tokens(task)) stream.push_back(token);
  ASSERT_EQ(stream.size(), 19u);

  const std::vector<float> values = client.last(client->score(stream, {.logits = true})).values;
  ASSERT_EQ(values.size(), 18u + 19u * 64u);
  for (size_t i = 9; i < stream.size(); ++i) {
    const float* logits = values.data() + 18 + (i - 1) * 64;
    EXPECT_EQ(stream[i], std::max_element(logits, logits + 64) - logits) << "token " << i;
  }
}

}  // namespace
}  // namespace longhaul
