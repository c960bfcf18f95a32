// Two sequences of one history, asked as one.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "dense_model.h"
#include "machine.h"

namespace longhaul {
namespace {

using testing::DenseCache;
using testing::DenseModel;
using testing::DenseRow;
using testing::Machine;
using testing::make_machine;
using testing::RandomModel;

constexpr int64_t kPoolBytes = 16 << 20;
constexpr int64_t kHistory = 150;

std::vector<int32_t> random_tokens(std::mt19937& random, int64_t count) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % 64);
  return tokens;
}

class SequenceUnion : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { machine_ = make_machine(GetParam(), shape_, kPoolBytes); }

  // A sequence that has seen the history and kept what its prompt attends to.
  std::unique_ptr<Sequence> episode(std::vector<int32_t> prompt,
                                    PositionKind positions = PositionKind::kAbsolute) {
    MemoryPolicy policy;
    policy.kind = PolicyKind::kPatchedPrompt;
    policy.budgets = {30, 22};
    policy.block = 32;
    policy.tail = 24;
    policy.prompt = std::move(prompt);
    policy.positions = positions;
    std::unique_ptr<Sequence> sequence = machine_.sequence(policy);
    for (size_t at = 0; at < history_.size(); at += 32) {
      const size_t count = std::min<size_t>(32, history_.size() - at);
      EXPECT_TRUE(sequence->prefill({history_.data() + at, count}).ok());
    }
    return sequence;
  }

  Result<std::unique_ptr<Sequence>> unite(Sequence& first, Sequence& second, int64_t shared = kHistory) {
    return Sequence::unite(*machine_.model, *machine_.pool, first, second, shared);
  }

  std::vector<float> ask(Sequence& sequence, const std::vector<int32_t>& question) {
    EXPECT_TRUE(sequence.extend(question).ok());
    std::vector<float> logits(static_cast<size_t>(shape_.vocab));
    const Tensor device = machine_.model->logits(sequence.last_row(), 1).value();
    EXPECT_TRUE(
        machine_.backend->download(machine_.model->stream(), logits.data(), device.data, logits.size() * 4)
            .ok());
    return logits;
  }

  LayerRows rows(Sequence& sequence, int32_t layer) {
    return std::move(sequence.cache().read_layer(layer).value());
  }

  RandomModel shape_;
  Machine machine_;
  std::mt19937 random_{41};
  const std::vector<int32_t> history_ = random_tokens(random_, kHistory);
};

TEST_P(SequenceUnion, WithItselfChangesNoLogit) {
  std::unique_ptr<Sequence> sequence = episode({1, 2, 3});
  ASSERT_TRUE(sequence->extend(random_tokens(random_, 9)).ok());
  const int64_t used = machine_.pool->used_pages();
  const int64_t reserved = machine_.pool->reserved_pages();
  Result<std::unique_ptr<Sequence>> united = unite(*sequence, *sequence);
  ASSERT_TRUE(united.ok()) << united.status().message();
  EXPECT_EQ(united.value()->memory().value().rows, sequence->memory().value().rows);
  EXPECT_EQ(united.value()->tail_rows(), 9);
  const std::vector<int32_t> question = random_tokens(random_, 11);
  EXPECT_EQ(ask(*united.value(), question), ask(*sequence, question));
  ASSERT_TRUE(sequence->truncate(11).ok());
  united.value().reset();
  EXPECT_EQ(machine_.pool->used_pages(), used);
  EXPECT_EQ(machine_.pool->reserved_pages(), reserved);
}

// Rows, keys and values by a map of positions; then a question, against plain loops over those rows.
TEST_P(SequenceUnion, HoldsTheRowsOfBothOnce) {
  std::unique_ptr<Sequence> first = episode({1, 2, 3});
  std::unique_ptr<Sequence> second = episode({40, 50, 60, 7});
  // Turns of their own, at the same positions: the second's are not the first's.
  ASSERT_TRUE(first->extend(random_tokens(random_, 6)).ok());
  ASSERT_TRUE(second->extend(random_tokens(random_, 10)).ok());
  first->pending = 5;
  Result<std::unique_ptr<Sequence>> result = unite(*first, *second);
  ASSERT_TRUE(result.ok()) << result.status().message();
  Sequence& united = *result.value();
  EXPECT_EQ(united.tokens_seen(), kHistory + 6);
  EXPECT_EQ(united.pending, 5);

  DenseCache cache(2, std::vector<std::vector<DenseRow>>(2));
  size_t more = 0;
  size_t both = 0;
  for (int32_t layer = 0; layer < 2; ++layer) {
    const LayerRows all[] = {rows(*first, layer), rows(*second, layer)};
    const LayerRows held = rows(united, layer);
    size_t at[] = {0, 0};
    size_t row = 0;
    for (size_t head = 0; head < 2; ++head) {
      std::map<int32_t, DenseRow> expected;
      for (size_t s = 0; s < 2; ++s) {
        for (int32_t i = 0; i < all[s].lengths[head]; ++i, ++at[s]) {
          const int32_t position = all[s].positions[at[s]];
          if (s == 1 && position >= kHistory) continue;
          const auto k = all[s].k.begin() + static_cast<int64_t>(at[s]) * shape_.head_dim;
          const auto v = all[s].v.begin() + static_cast<int64_t>(at[s]) * shape_.head_dim;
          const bool added =
              expected
                  .try_emplace(position, DenseRow{position, {k, k + shape_.head_dim}, {v, v + shape_.head_dim}})
                  .second;
          if (s == 1) ++(added ? more : both);
        }
      }
      ASSERT_EQ(held.lengths[head], static_cast<int32_t>(expected.size()));
      for (const auto& [position, want] : expected) {
        EXPECT_EQ(held.positions[row], position);
        for (int d = 0; d < shape_.head_dim; ++d) {
          const size_t element = row * static_cast<size_t>(shape_.head_dim) + static_cast<size_t>(d);
          ASSERT_EQ(held.k[element], static_cast<float>(want.k[static_cast<size_t>(d)]));
          ASSERT_EQ(held.v[element], static_cast<float>(want.v[static_cast<size_t>(d)]));
        }
        cache[static_cast<size_t>(layer)][head].push_back(want);
        ++row;
      }
    }
  }
  EXPECT_GT(more, 0u) << "the second must bring rows";
  EXPECT_GT(both, 0u) << "and have some that the first has";

  const std::vector<int32_t> question = random_tokens(random_, 8);
  DenseModel(shape_).forward(cache, question, kHistory + 6);
  ASSERT_TRUE(united.extend(question).ok());
  const LayerRows after = rows(united, 1);
  size_t row = 0;
  for (size_t head = 0; head < 2; ++head) {
    row += static_cast<size_t>(after.lengths[head]);
    for (size_t i = 1; i <= question.size(); ++i) {
      const DenseRow& want = cache[1][head][cache[1][head].size() - i];
      for (size_t d = 0; d < want.k.size(); ++d) {
        EXPECT_NEAR(after.k[(row - i) * want.k.size() + d], want.k[d], 1e-3);
        EXPECT_NEAR(after.v[(row - i) * want.k.size() + d], want.v[d], 1e-3);
      }
    }
  }
}

// What a union takes in is evicted as the first's rows are, down to what both may keep.
TEST_P(SequenceUnion, GoesOnInsideItsReservation) {
  std::unique_ptr<Sequence> first = episode({1, 2, 3});
  std::unique_ptr<Sequence> second = episode({40, 50, 60, 7});
  std::unique_ptr<Sequence> united = std::move(unite(*first, *second).value());
  for (int block = 0; block < 4; ++block) ASSERT_TRUE(united->prefill(random_tokens(random_, 32)).ok());
  const SequenceMemory memory = united->memory().value();
  EXPECT_LE(memory.peak_bytes, memory.reserved_bytes);
  EXPECT_EQ(memory.rows[0] + memory.rows[1], 2 * 60);
  EXPECT_EQ(memory.rows[2] + memory.rows[3], 2 * 44);
}

TEST_P(SequenceUnion, IsRefusedWhereItMeansNothing) {
  std::unique_ptr<Sequence> first = episode({1, 2, 3});
  std::unique_ptr<Sequence> second = episode({40, 50});
  ASSERT_TRUE(second->extend(random_tokens(random_, 3)).ok());
  const int64_t reserved = machine_.pool->reserved_pages();
  const auto refused = [&](Sequence& one, Sequence& other, int64_t shared, Code code,
                           const std::string& reason) {
    const Status status = unite(one, other, shared).status();
    EXPECT_EQ(status.code(), code);
    EXPECT_NE(status.message().find(reason), std::string::npos) << status.message();
  };
  refused(*first, *second, kHistory + 1, Code::kInvalidArgument, "cannot share 151 tokens: one has 150");
  refused(*first, *second, -1, Code::kInvalidArgument, "cannot share -1 tokens");
  std::unique_ptr<Sequence> full = machine_.sequence(MemoryPolicy());
  refused(*full, *full, 0, Code::kInvalidArgument, "a full cache has all rows already");
  const int64_t free = machine_.pool->total_pages() - machine_.pool->reserved_pages();
  std::vector<int32_t> rest;
  ASSERT_TRUE(machine_.pool->reserve(free - 1, rest).ok());
  refused(*first, *second, kHistory, Code::kOutOfMemory, "pages free");
  machine_.pool->release(rest);
  EXPECT_EQ(machine_.pool->reserved_pages(), reserved);
}

TEST_P(SequenceUnion, IsRefusedWherePositionsWerePacked) {
  shape_.max_positions = 200;
  const Machine long_one = std::move(machine_);  // its parts go in their own order
  machine_ = make_machine(GetParam(), shape_, kPoolBytes);
  std::unique_ptr<Sequence> first = episode({1, 2, 3}, PositionKind::kPacked);
  ASSERT_TRUE(unite(*first, *first).ok()) << "positions are absolute yet";
  for (int block = 0; block < 3; ++block) ASSERT_TRUE(first->prefill(random_tokens(random_, 32)).ok());
  const Status status = unite(*first, *first).status();
  EXPECT_EQ(status.code(), Code::kUnsupported);
  EXPECT_NE(status.message().find("positions were packed"), std::string::npos) << status.message();
}

INSTANTIATE_TEST_SUITE_P(Devices, SequenceUnion, ::testing::ValuesIn(testing::kDevicesUnderTest),
                         [](const auto& info) { return testing::test_name(info.param); });

}  // namespace
}  // namespace longhaul
