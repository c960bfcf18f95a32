// What a conversation is promised: rows and bytes never pass the reservation, whatever it is fed.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "machine.h"

namespace longhaul {
namespace {

using testing::Machine;
using testing::make_machine;
using testing::RandomModel;

constexpr int64_t kPoolBytes = 64 << 20;

std::vector<int32_t> random_tokens(std::mt19937& random, int64_t count, int vocab) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % static_cast<uint32_t>(vocab));
  return tokens;
}

void ingest(Sequence& sequence, const std::vector<int32_t>& tokens) {
  const size_t block = static_cast<size_t>(sequence.policy().block);
  for (size_t at = 0; at < tokens.size(); at += block) {
    const Status status = sequence.prefill({tokens.data() + at, std::min(block, tokens.size() - at)});
    ASSERT_TRUE(status.ok()) << status.message();
  }
}

std::vector<float> last_logits(Machine& machine, Sequence& sequence) {
  std::vector<float> logits(static_cast<size_t>(machine.model->config().vocab_size));
  const Tensor device = machine.model->logits(sequence.last_row(), 1).value();
  EXPECT_TRUE(
      machine.backend->download(machine.model->stream(), logits.data(), device.data, logits.size() * 4).ok());
  return logits;
}

class BoundedMemory : public ::testing::TestWithParam<std::string> {};

// Peak and present bytes, row counts and order after every pass of random conversations under random policies.
TEST_P(BoundedMemory, NeverPassesItsReservation) {
  std::mt19937 random(7);
  auto pick = [&](int low, int high) {
    return low + static_cast<int>(random() % static_cast<uint32_t>(high - low + 1));
  };
  for (int trial = 0; trial < 40; ++trial) {
    RandomModel shape;
    shape.layers = pick(1, 3);
    shape.kv_heads = pick(1, 4);
    shape.heads = shape.kv_heads * pick(1, 3);
    shape.head_dim = 8 * pick(1, 3);
    shape.qk_norm = pick(0, 1) == 1;
    shape.seed = static_cast<uint32_t>(trial);
    Machine machine = make_machine(GetParam(), shape, kPoolBytes);

    MemoryPolicy policy;
    policy.kind = static_cast<PolicyKind>(pick(1, 7));
    policy.level = pick(0, 1) == 0 ? SelectLevel::kPair : SelectLevel::kHead;
    policy.block = pick(1, 60);
    policy.tail = pick(1, 40);
    policy.window = pick(1, 8);
    policy.sinks = pick(0, 4);
    policy.prompt = random_tokens(random, pick(1, 30), shape.vocab);
    for (int layer = 0; layer < shape.layers; ++layer) policy.budgets.push_back(pick(9, 70));
    SCOPED_TRACE("trial " + std::to_string(trial) + " policy " + std::to_string(static_cast<int>(policy.kind)));

    Result<std::unique_ptr<Sequence>> created = Sequence::create(*machine.model, *machine.pool, policy);
    ASSERT_TRUE(created.ok()) << created.status().message();
    std::unique_ptr<Sequence> sequence = std::move(created.value());
    const int64_t reserved = sequence->memory().value().reserved_bytes;
    EXPECT_EQ(reserved, reservation_pages(policy, machine.model->kv_geometry()) * machine.pool->page_bytes());

    for (int step = 0; step < 12; ++step) {
      const std::vector<int32_t> tokens = random_tokens(random, pick(1, policy.block), shape.vocab);
      const bool prefill = pick(0, 1) == 0 || !sequence->tail_holds(static_cast<int64_t>(tokens.size()));
      const Status status = prefill ? sequence->prefill(tokens) : sequence->extend(tokens);
      ASSERT_TRUE(status.ok()) << status.message();
      if (!prefill && pick(0, 3) == 0) ASSERT_TRUE(sequence->evict_tail().ok());
      if (sequence->tail_rows() > 0 && pick(0, 3) == 0) {
        ASSERT_TRUE(sequence->truncate(pick(1, sequence->tail_rows())).ok());
      }

      const SequenceMemory memory = sequence->memory().value();
      EXPECT_LE(memory.peak_bytes, reserved);
      EXPECT_LE(memory.used_bytes, memory.peak_bytes);
      EXPECT_EQ(memory.reserved_bytes, reserved);
      EXPECT_EQ(machine.pool->used_pages() * machine.pool->page_bytes(), memory.used_bytes);
      EXPECT_EQ(machine.pool->peak_pages() * machine.pool->page_bytes(), memory.peak_bytes);
      int64_t pages = 0;
      for (int layer = 0; layer < shape.layers; ++layer) {
        const auto rows = memory.rows.begin() + layer * shape.kv_heads;
        const int64_t total = std::accumulate(rows, rows + shape.kv_heads, int64_t{0});
        EXPECT_LE(total, int64_t{policy.budgets[layer] + memory.tail_rows} * shape.kv_heads);
        for (int head = 0; head < shape.kv_heads; ++head) pages += pages_for(rows[head]);

        const LayerRows held = sequence->cache().read_layer(layer).value();
        auto position = held.positions.begin();
        for (int32_t length : held.lengths) {
          EXPECT_TRUE(std::is_sorted(position, position + length, std::less_equal<>()));
          if (length > 0) EXPECT_LT(*(position + length - 1), memory.tokens_seen);
          position += length;
        }
      }
      EXPECT_EQ(pages * machine.pool->page_bytes(), memory.used_bytes);
    }
    sequence.reset();
    EXPECT_EQ(machine.pool->reserved_pages(), 0);
    EXPECT_EQ(machine.pool->used_pages(), 0);
  }
}

// A budget that holds the whole history changes nothing: same logits as full attention, to the bit, because the
// passes and the rows they see are the same.
TEST_P(BoundedMemory, AmpleBudgetEqualsFullAttention) {
  for (PolicyKind kind :
       {PolicyKind::kStreaming, PolicyKind::kSnapKv, PolicyKind::kSnapKvRefed, PolicyKind::kKeyDiff,
        PolicyKind::kPatchedPrompt, PolicyKind::kTova, PolicyKind::kKvZip, PolicyKind::kEpisodic}) {
    RandomModel shape;
    Machine machine = make_machine(GetParam(), shape, kPoolBytes);
    std::mt19937 random(11);
    const std::vector<int32_t> history = random_tokens(random, 150, shape.vocab);
    const std::vector<int32_t> question = random_tokens(random, 9, shape.vocab);

    MemoryPolicy full;
    full.block = 32;
    MemoryPolicy bounded = full;
    bounded.kind = kind;
    bounded.budgets = {150, 150};
    bounded.tail = 16;
    bounded.prompt = random_tokens(random, 12, shape.vocab);

    std::vector<std::vector<float>> logits;
    for (const MemoryPolicy& policy : {full, bounded}) {
      std::unique_ptr<Sequence> sequence =
          std::move(Sequence::create(*machine.model, *machine.pool, policy).value());
      ASSERT_TRUE(sequence->admit(200).ok());
      ingest(*sequence, history);
      ASSERT_TRUE(sequence->extend(question).ok());
      logits.push_back(last_logits(machine, *sequence));
    }
    EXPECT_EQ(logits[0], logits[1]) << "policy " << static_cast<int>(kind);
  }
}

// Several calls of whole blocks leave the cache that one call leaves.
TEST_P(BoundedMemory, SplitOfWholeBlocksGivesTheSameCache) {
  RandomModel shape;
  Machine machine = make_machine(GetParam(), shape, kPoolBytes);
  std::mt19937 random(13);
  const std::vector<int32_t> history = random_tokens(random, 200, shape.vocab);
  MemoryPolicy policy;
  policy.kind = PolicyKind::kPatchedPrompt;
  policy.block = 40;
  policy.budgets = {30, 50};
  policy.prompt = random_tokens(random, 12, shape.vocab);

  std::vector<LayerRows> caches;
  for (const std::vector<size_t>& cuts : std::vector<std::vector<size_t>>{{200}, {40, 80, 80}, {120, 80}}) {
    std::unique_ptr<Sequence> sequence =
        std::move(Sequence::create(*machine.model, *machine.pool, policy).value());
    size_t at = 0;
    for (size_t cut : cuts) {
      ingest(*sequence,
             {history.begin() + static_cast<int64_t>(at), history.begin() + static_cast<int64_t>(at + cut)});
      at += cut;
    }
    caches.push_back(sequence->cache().read_layer(1).value());
  }
  for (size_t i = 1; i < caches.size(); ++i) {
    EXPECT_EQ(caches[0].lengths, caches[i].lengths);
    EXPECT_EQ(caches[0].positions, caches[i].positions);
    EXPECT_EQ(caches[0].k, caches[i].k);
    EXPECT_EQ(caches[0].v, caches[i].v);
  }
}

// What truncate forgets leaves no trace: the answer is that of a conversation that never had it.
TEST_P(BoundedMemory, TruncatedTurnLeavesNoTrace) {
  RandomModel shape;
  Machine machine = make_machine(GetParam(), shape, kPoolBytes);
  std::mt19937 random(17);
  const std::vector<int32_t> history = random_tokens(random, 100, shape.vocab);
  const std::vector<int32_t> aside = random_tokens(random, 20, shape.vocab);
  const std::vector<int32_t> question = random_tokens(random, 7, shape.vocab);
  MemoryPolicy policy;
  policy.kind = PolicyKind::kKeyDiff;
  policy.block = 32;
  policy.budgets = {24, 24};
  policy.tail = 40;

  std::vector<std::vector<float>> logits;
  for (bool with_aside : {false, true}) {
    std::unique_ptr<Sequence> sequence =
        std::move(Sequence::create(*machine.model, *machine.pool, policy).value());
    ingest(*sequence, history);
    if (with_aside) {
      ASSERT_TRUE(sequence->extend(aside).ok());
      ASSERT_TRUE(sequence->truncate(20).ok());
    }
    ASSERT_TRUE(sequence->extend(question).ok());
    logits.push_back(last_logits(machine, *sequence));
    EXPECT_FALSE(sequence->truncate(8).ok()) << "frozen rows cannot be forgotten";
  }
  EXPECT_EQ(logits[0], logits[1]);
}

TEST_P(BoundedMemory, RefusalExplainsItsArithmetic) {
  RandomModel shape;
  Machine machine = make_machine(GetParam(), shape, kPoolBytes);
  MemoryPolicy policy;
  policy.kind = PolicyKind::kStreaming;
  policy.budgets = {200000, 200000};
  Result<std::unique_ptr<Sequence>> refused = Sequence::create(*machine.model, *machine.pool, policy);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().code(), Code::kOutOfMemory);
  const std::string bytes =
      std::to_string(reservation_pages(policy, machine.model->kv_geometry()) * machine.pool->page_bytes()) +
      " bytes";
  EXPECT_NE(refused.status().message().find(bytes), std::string::npos) << refused.status().message();
  EXPECT_EQ(machine.pool->reserved_pages(), 0);

  policy.budgets = {40, 40};
  EXPECT_TRUE(Sequence::create(*machine.model, *machine.pool, policy).ok())
      << "a refusal must not spoil the pool";
}

INSTANTIATE_TEST_SUITE_P(Devices, BoundedMemory, ::testing::ValuesIn(testing::kDevicesUnderTest),
                         [](const auto& info) { return testing::test_name(info.param); });

}  // namespace
}  // namespace longhaul
