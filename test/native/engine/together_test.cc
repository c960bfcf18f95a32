// Several sequences that take the same tokens in together end as each alone would.
#include <gtest/gtest.h>

#include <atomic>
#include <random>

#include "engine_client.h"
#include "machine.h"

namespace longhaul {
namespace {

using testing::EngineClient;
using testing::RandomModel;

std::vector<int32_t> random_tokens(std::mt19937& random, size_t count) {
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % 64);
  return tokens;
}

MemoryPolicy prompted(std::vector<int32_t> prompt) {
  MemoryPolicy policy;
  policy.kind = PolicyKind::kPatchedPrompt;
  policy.budgets = {20, 31};
  policy.block = 24;
  policy.tail = 16;
  policy.prompt = std::move(prompt);
  return policy;
}

class TogetherTest : public ::testing::TestWithParam<std::string> {};

TEST_P(TogetherTest, EachSequenceIsToTheBitWhatItWouldBeAlone) {
  std::mt19937 random(3);
  std::vector<MemoryPolicy> policies;
  for (size_t length : {7, 1, 30}) policies.push_back(prompted(random_tokens(random, length)));
  policies.push_back(prompted({}));
  policies.back().kind = PolicyKind::kKeyDiff;
  policies.push_back(policies.back());
  policies.back().kind = PolicyKind::kSnapKv;
  policies.back().window = 8;
  policies.push_back({.block = 24});  // full
  for (const bool qk_norm : {false, true}) {
    RandomModel shape;
    shape.heads = 4;
    shape.kv_heads = 2;
    shape.qk_norm = qk_norm;
    testing::Machine machine = testing::make_machine(GetParam(), shape, 16 << 20);
    std::vector<std::unique_ptr<Sequence>> alone, together;
    std::vector<Sequence*> batch;
    for (const MemoryPolicy& policy : policies) {
      alone.push_back(machine.sequence(policy));
      together.push_back(machine.sequence(policy));
      batch.push_back(together.back().get());
    }
    ASSERT_TRUE(Sequence::prepare_together(batch).ok());
    // Tails of unlike lengths go with the next block.
    for (size_t s = 0; s + 1 < policies.size(); ++s) {
      const std::vector<int32_t> first = random_tokens(random, 24);
      const std::vector<int32_t> tail = random_tokens(random, s + 1);
      for (Sequence* sequence : {alone[s].get(), batch[s]}) {
        ASSERT_TRUE(sequence->prefill(first).ok());
        ASSERT_TRUE(sequence->extend(tail).ok());
      }
    }
    for (size_t count : {24, 24, 24, 9}) {
      const std::vector<int32_t> block = random_tokens(random, count);
      for (const std::unique_ptr<Sequence>& sequence : alone) {
        ASSERT_TRUE(sequence->admit(static_cast<int64_t>(count)).ok());
        ASSERT_TRUE(sequence->prefill(block).ok());
      }
      for (Sequence* sequence : batch) ASSERT_TRUE(sequence->admit(static_cast<int64_t>(count)).ok());
      const Status status = Sequence::prefill_together(batch, block);
      ASSERT_TRUE(status.ok()) << status.message();
      for (size_t s = 0; s < policies.size(); ++s) {
        EXPECT_EQ(batch[s]->tokens_seen(), alone[s]->tokens_seen());
        EXPECT_EQ(batch[s]->tail_rows(), alone[s]->tail_rows());
        EXPECT_EQ(batch[s]->memory().value().peak_bytes, alone[s]->memory().value().peak_bytes);
        for (int32_t layer = 0; layer < 2; ++layer) {
          const LayerRows expected = alone[s]->cache().read_layer(layer).value();
          const LayerRows got = batch[s]->cache().read_layer(layer).value();
          EXPECT_EQ(got.lengths, expected.lengths);
          EXPECT_EQ(got.positions, expected.positions);
          EXPECT_EQ(got.k, expected.k);
          EXPECT_EQ(got.v, expected.v);
        }
      }
    }
    // They go on alone.
    const std::vector<int32_t> turn = random_tokens(random, 5);
    for (size_t s = 0; s < policies.size(); ++s) {
      for (Sequence* sequence : {alone[s].get(), batch[s]}) {
        ASSERT_TRUE(sequence->admit(5).ok());
        ASSERT_TRUE(sequence->extend(turn).ok());
      }
      EXPECT_EQ(batch[s]->cache().read_layer(1).value().k, alone[s]->cache().read_layer(1).value().k);
    }
  }
}

// All of them hold a layer's uncompressed block at the same time.
TEST_P(TogetherTest, ThePoolsPeakIsThatOfAll) {
  std::mt19937 random(3);
  testing::Machine machine = testing::make_machine(GetParam(), {}, 4 << 20);
  std::vector<std::unique_ptr<Sequence>> sequences;
  std::vector<Sequence*> batch;
  for (int s = 0; s < 3; ++s) {
    sequences.push_back(machine.sequence(prompted(random_tokens(random, 7))));
    batch.push_back(sequences.back().get());
  }
  ASSERT_TRUE(Sequence::prepare_together(batch).ok());
  int64_t peak = 0;
  for (int block = 0; block < 3; ++block) {
    ASSERT_TRUE(Sequence::prefill_together(batch, random_tokens(random, 24)).ok());
  }
  for (Sequence* sequence : batch) peak += sequence->cache().peak_pages();
  EXPECT_EQ(machine.pool->peak_pages(), peak);
  int64_t used = 0;
  for (Sequence* sequence : batch) used += sequence->cache().used_pages();
  EXPECT_EQ(machine.pool->used_pages(), used);
  sequences.clear();
  EXPECT_EQ(machine.pool->used_pages(), 0);
}

INSTANTIATE_TEST_SUITE_P(Devices, TogetherTest, ::testing::ValuesIn(testing::kDevicesUnderTest),
                         [](const auto& info) { return testing::test_name(info.param); });

class IngestTogetherTaskTest : public ::testing::Test {
 protected:
  void SetUp() override { testing::write_model(RandomModel(), directory_.path()); }
  const std::string& model() const { return directory_.path(); }
  std::vector<int32_t> tokens(size_t count) { return random_tokens(random_, count); }

 private:
  TemporaryDirectory directory_;
  std::mt19937 random_{5};
};

TEST_F(IngestTogetherTaskTest, TellsEachBlockOnce) {
  EngineClient client(model());
  const std::vector<uint64_t> ids = {client.sequence(prompted(tokens(3))),
                                     client.sequence(prompted(tokens(9)))};
  const uint64_t task = client->ingest_together(ids, tokens(60));
  const Event done = client.last(task);
  ASSERT_EQ(done.kind, EventKind::kDone) << done.status.message();
  std::vector<int64_t> told;
  for (const Event& event : client.events()) {
    if (event.task != task) continue;
    told.push_back(event.done);
    EXPECT_EQ(event.total, 60);
  }
  EXPECT_EQ(told, (std::vector<int64_t>{24, 48, 60, 60}));
  for (uint64_t id : ids) EXPECT_EQ(client->sequence_memory(id).value().tokens_seen, 60);
}

TEST_F(IngestTogetherTaskTest, EndsBetweenBlocksWhenItIsCancelled) {
  std::atomic<uint64_t> victim{UINT64_MAX};
  EngineClient client(model(), [&](Engine& engine, const Event& event) {
    if (event.task == victim && event.kind == EventKind::kProgress) engine.cancel(event.task);
  });
  const std::vector<uint64_t> ids = {client.sequence(prompted(tokens(3))),
                                     client.sequence(prompted(tokens(9)))};
  victim = client.last(client->score(tokens(4), {})).task + 1;
  const uint64_t task = client->ingest_together(ids, tokens(600));
  const Event done = client.last(task);
  EXPECT_EQ(done.finish, FinishReason::kCancelled);
  EXPECT_EQ(done.done, 24);
  for (uint64_t id : ids) EXPECT_EQ(client->sequence_memory(id).value().tokens_seen, 24);
}

TEST_F(IngestTogetherTaskTest, RefusesWhatCannotBeBeforeAnyWork) {
  EngineClient client(model());
  const uint64_t first = client.sequence(prompted(tokens(3)));
  const uint64_t second = client.sequence(prompted(tokens(3)));
  MemoryPolicy other = prompted(tokens(3));
  other.block = 16;
  const uint64_t small = client.sequence(other);
  const auto refusal = [&](const std::vector<uint64_t>& ids, std::vector<int32_t> text) {
    return client.last(client->ingest_together(ids, std::move(text))).status;
  };
  EXPECT_EQ(refusal({}, tokens(60)).code(), Code::kInvalidArgument);
  EXPECT_EQ(refusal({first, second}, {}).code(), Code::kInvalidArgument);
  EXPECT_EQ(refusal({first, second}, {64}).code(), Code::kInvalidArgument);
  EXPECT_EQ(refusal({first, first}, tokens(60)).code(), Code::kInvalidArgument);
  EXPECT_EQ(refusal({first, 99}, tokens(60)).code(), Code::kDisposed);
  EXPECT_EQ(refusal({first, second}, tokens(5000)).code(), Code::kInvalidArgument) << "4096 positions";
  const Status blocks = refusal({first, small}, tokens(60));
  EXPECT_NE(blocks.message().find("blocks of 24 and of 16"), std::string::npos) << blocks.message();

  client.last(client->generate(second, tokens(3), {.max_tokens = 1}));  // its token waits
  EXPECT_EQ(refusal({first, second}, tokens(60)).code(), Code::kInvalidArgument);
  EXPECT_EQ(client->sequence_memory(first).value().tokens_seen, 0);

  // A full cache that grew for nothing gives back.
  const uint64_t full = client.sequence({.block = 24});
  const int64_t reserved = client->memory().reserved_bytes;
  EXPECT_EQ(refusal({full, small}, tokens(60)).code(), Code::kInvalidArgument);
  EXPECT_EQ(client->memory().reserved_bytes, reserved);
}

}  // namespace
}  // namespace longhaul
