// Errors of the device on their way to the engine's callers: each reaches them with its code, and what can go
// on goes on.
#include <gtest/gtest.h>

#include "emulator/emulator.h"
#include "engine/engine_client.h"
#include "engine/random_model.h"

namespace longhaul {
namespace {

using testing::EngineClient;

class FailureTest : public ::testing::Test {
 protected:
  void SetUp() override {
    emulator::reset();
    testing::write_model({}, directory_.path());
  }
  void TearDown() override {
    emulator::reset();
    static_cast<void>(emulator::take_report());
  }
  const std::string& model() const { return directory_.path(); }

  static MemoryPolicy policy() {
    MemoryPolicy policy;
    policy.kind = PolicyKind::kKeyDiff;
    policy.budgets = {20, 20};
    policy.block = 16;
    policy.tail = 16;
    return policy;
  }

  static uint64_t ask(EngineClient& client, uint64_t sequence) {
    return client->generate(sequence, {1, 2, 3, 4, 5}, {.max_tokens = 4, .params = {.temperature = 0}});
  }

  TemporaryDirectory directory_;
};

// Wherever in an answer a launch fails, it is told, and the next conversation gives the right answer.
TEST_F(FailureTest, AFailedLaunchFailsItsTaskAlone) {
  EngineClient client(model());
  const uint64_t good = client.sequence(policy());
  const uint64_t launches_before = emulator::counts().launches;
  const uint64_t answered = ask(client, good);
  ASSERT_EQ(client.last(answered).kind, EventKind::kDone);
  const std::vector<int32_t> expected = client.tokens(answered);
  const uint64_t launches = emulator::counts().launches - launches_before;
  ASSERT_GT(launches, 20u);

  for (uint64_t n = 1; n < launches; n += 7) {
    const uint64_t unlucky = client.sequence(policy());
    emulator::fail_launch(n);
    const uint64_t task = ask(client, unlucky);
    const Event failed = client.last(task);
    // Later answers replay what the first one recorded, so the last launches may never come.
    if (failed.kind == EventKind::kDone) {
      EXPECT_GT(n, launches / 3);
      emulator::reset();
      break;
    }
    EXPECT_EQ(failed.status.code(), Code::kInternal) << n;
    EXPECT_NE(failed.status.message().find("cudaErrorLaunchOutOfResources"), std::string::npos)
        << failed.status.message();

    const uint64_t next = client.sequence(policy());
    const uint64_t again = ask(client, next);
    ASSERT_EQ(client.last(again).kind, EventKind::kDone) << client.last(again).status.message();
    EXPECT_EQ(client.tokens(again), expected) << n;
    for (uint64_t sequence : {unlucky, next}) client.last(client->release_sequence(sequence));
  }
}

TEST_F(FailureTest, ABrokenConversationSaysSo) {
  EngineClient client(model());
  const uint64_t sequence = client.sequence(policy());
  emulator::fail_launch(3);
  ASSERT_EQ(client.last(ask(client, sequence)).kind, EventKind::kFailed);
  const Event refused = client.last(ask(client, sequence));
  EXPECT_EQ(refused.status.code(), Code::kInternal);
  EXPECT_NE(refused.status.message().find("cannot be used any more"), std::string::npos)
      << refused.status.message();
}

TEST_F(FailureTest, MemoryThatRunsOutIsToldAndLeftAsItWas) {
  EngineClient client(model());
  const uint64_t good = client.sequence(policy());
  const uint64_t answered = ask(client, good);
  ASSERT_EQ(client.last(answered).kind, EventKind::kDone);
  const std::vector<int32_t> expected = client.tokens(answered);
  client.last(client->release_sequence(good));
  const EngineMemory before = client->memory();

  emulator::fail_allocation(1);
  const Event refused = client.last(client->create_sequence(policy()));
  EXPECT_EQ(refused.status.code(), Code::kOutOfMemory);
  EXPECT_NE(refused.status.message().find("cannot allocate"), std::string::npos) << refused.status.message();
  EXPECT_EQ(client->memory().reserved_bytes, before.reserved_bytes);
  EXPECT_EQ(client->memory().table_bytes, before.table_bytes);

  const uint64_t next = client.sequence(policy());
  const uint64_t again = ask(client, next);
  ASSERT_EQ(client.last(again).kind, EventKind::kDone);
  EXPECT_EQ(client.tokens(again), expected);
}

// One allocation after the other is refused, until the model loads.
TEST_F(FailureTest, AModelThatDoesNotFitIsRefused) {
  int refusals = 0;
  for (uint64_t n = 1;; n += 5) {
    emulator::fail_allocation(n);
    EngineClient client(model());
    const Event loaded = client.last(0);
    if (loaded.kind == EventKind::kDone) break;
    ++refusals;
    EXPECT_EQ(loaded.status.code(), Code::kOutOfMemory) << n;
  }
  EXPECT_GT(refusals, 3);
  emulator::reset();
  const uint64_t live = emulator::counts().live_bytes;
  {
    EngineClient client(model());
    EXPECT_EQ(client.last(0).kind, EventKind::kDone);
  }
  EXPECT_EQ(emulator::counts().live_bytes, live) << "a refused load leaks nothing";
}

TEST_F(FailureTest, ALostDeviceEndsTheEngine) {
  EngineClient client(model());
  const uint64_t sequence = client.sequence(policy());
  const uint64_t bystander = client.sequence(policy());
  emulator::lose_device(9);
  const Event lost = client.last(ask(client, sequence));
  EXPECT_EQ(lost.status.code(), Code::kDeviceLost);
  EXPECT_NE(lost.status.message().find("cudaErrorIllegalAddress"), std::string::npos) << lost.status.message();
  EXPECT_NE(lost.status.message().find("start it again"), std::string::npos) << lost.status.message();
  for (uint64_t task : {ask(client, bystander), client->ingest(bystander, {1, 2}),
                        client->create_sequence(policy()), client->score({1, 2, 3}, {})}) {
    EXPECT_EQ(client.last(task).status.code(), Code::kDeviceLost) << task;
  }
  EXPECT_EQ(client.last(client->release_sequence(bystander)).kind, EventKind::kDone);
}

}  // namespace
}  // namespace longhaul
