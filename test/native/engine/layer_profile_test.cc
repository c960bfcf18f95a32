// Sensitivity profiles against a model in plain loops that attends under the mask itself.
#include "engine/layer_profile.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <limits>
#include <random>

#include "dense_model.h"
#include "engine_client.h"
#include "machine.h"

namespace longhaul {
namespace {

using testing::DenseCache;
using testing::DenseModel;
using testing::EngineClient;
using testing::Machine;
using testing::RandomModel;

std::vector<int32_t> random_tokens(std::mt19937& random, size_t count) {
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % 64);
  return tokens;
}

// Mean cosine of keys under the causal mask with those under the mask of EpiCache's profile.
std::vector<double> expected_similarity(const RandomModel& shape, const std::vector<int32_t>& tokens,
                                        const ProfileOptions& options) {
  const DenseModel model(shape);
  DenseCache full = model.empty();
  model.forward(full, tokens, 0);
  DenseCache windowed = model.empty();
  model.forward(windowed, tokens, 0, [&](int32_t query, int32_t key) {
    const int32_t block = query / options.block;
    if (key < options.sinks || key / options.block == block) return true;
    return key / options.block == block - 1 && key >= block * options.block - options.window;
  });
  std::vector<double> means;
  for (size_t layer = 0; layer < full.size(); ++layer) {
    double sum = 0;
    for (size_t head = 0; head < full[layer].size(); ++head) {
      for (size_t token = 0; token < tokens.size(); ++token) {
        const testing::Vector& a = full[layer][head][token].k;
        const testing::Vector& b = windowed[layer][head][token].k;
        double ab = 0, aa = 0, bb = 0;
        for (size_t i = 0; i < a.size(); ++i) {
          ab += a[i] * b[i];
          aa += a[i] * a[i];
          bb += b[i] * b[i];
        }
        sum += ab / std::sqrt(aa) / std::sqrt(bb);
      }
    }
    means.push_back(sum / static_cast<double>(tokens.size() * full[layer].size()));
  }
  return means;
}

class LayerProfileTest : public ::testing::TestWithParam<std::string> {};

TEST_P(LayerProfileTest, IsThatOfTheMaskedModel) {
  std::mt19937 random(11);
  auto pick = [&](int low, int high) {
    return low + static_cast<int>(random() % static_cast<uint32_t>(high - low + 1));
  };
  int sensitive = 0;
  for (int trial = 0; trial < 12; ++trial) {
    SCOPED_TRACE("trial " + std::to_string(trial));
    RandomModel shape;
    shape.layers = 3;
    shape.kv_heads = pick(1, 3);
    shape.heads = shape.kv_heads * pick(1, 2);
    shape.head_dim = 8 * pick(1, 2);
    shape.qk_norm = pick(0, 1) == 1;
    shape.seed = static_cast<uint32_t>(trial);
    ProfileOptions options;
    options.block = pick(1, 40);
    options.window = trial % 3 == 0 ? options.block : pick(1, options.block);
    options.sinks = pick(0, 50);  // also more than a block
    const std::vector<int32_t> tokens = random_tokens(random, static_cast<size_t>(pick(60, 130)));

    Machine machine = testing::make_machine(GetParam(), shape, 4 << 20);
    Result<std::unique_ptr<LayerProfile>> profile =
        LayerProfile::create(*machine.model, *machine.pool, tokens, options);
    ASSERT_TRUE(profile.ok()) << profile.status().message();
    while (profile.value()->done() < profile.value()->total()) {
      const Status status = profile.value()->step();
      ASSERT_TRUE(status.ok()) << status.message();
    }
    const std::vector<double> got = profile.value()->similarity().value();
    const std::vector<double> expected = expected_similarity(shape, tokens, options);
    ASSERT_EQ(got.size(), 3u);
    EXPECT_NEAR(got[0], 1, 1e-6) << "no attention has touched these keys";
    for (size_t layer = 0; layer < got.size(); ++layer) EXPECT_NEAR(got[layer], expected[layer], 1e-5);
    if (got[1] < 0.98 && got[2] < 0.98) ++sensitive;

    profile.value().reset();
    EXPECT_EQ(machine.pool->reserved_pages(), 0);
    EXPECT_EQ(machine.pool->used_pages(), 0);
  }
  EXPECT_GE(sensitive, 6) << "the trials have to tell a window from none";
}

// Heads of unlike lengths, which begin inside a page.
TEST_P(LayerProfileTest, NewestKeysAreTheLastRowsOfEachHead) {
  Machine machine = testing::make_machine(GetParam(), {}, 4 << 20);
  MemoryPolicy policy;
  policy.kind = PolicyKind::kKeyDiff;
  policy.budgets = {45, 45};
  policy.block = 90;
  policy.tail = 40;
  std::unique_ptr<Sequence> sequence = machine.sequence(policy);
  std::mt19937 random(3);
  ASSERT_TRUE(sequence->prefill(random_tokens(random, 90)).ok());
  ASSERT_TRUE(sequence->extend(random_tokens(random, 37)).ok());
  for (int32_t layer = 0; layer < 2; ++layer) {
    const LayerRows rows = sequence->cache().read_layer(layer).value();
    EXPECT_NE(rows.lengths[0], rows.lengths[1]);
    const auto end_of_first = rows.k.begin() + int64_t{rows.lengths[0]} * 16;
    for (int32_t newest : {1, 15, 16, 37}) {
      const int64_t elements = int64_t{newest} * 16;
      std::vector<float> expected(end_of_first - elements, end_of_first);
      expected.insert(expected.end(), rows.k.end() - elements, rows.k.end());
      EXPECT_EQ(sequence->cache().read_newest_keys(layer, newest).value(), expected);
    }
    EXPECT_EQ(sequence->cache().read_newest_keys(layer, 200).status().code(), Code::kInternal);
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, LayerProfileTest, ::testing::ValuesIn(testing::kDevicesUnderTest),
                         [](const auto& info) { return testing::test_name(info.param); });

class ProfileTaskTest : public ::testing::Test {
 protected:
  void SetUp() override { testing::write_model(RandomModel(), directory_.path()); }
  const std::string& model() const { return directory_.path(); }
  std::vector<int32_t> tokens(size_t count) { return random_tokens(random_, count); }

 private:
  TemporaryDirectory directory_;
  std::mt19937 random_{5};
};

constexpr ProfileOptions kSmall{.sinks = 2, .window = 8, .block = 16};

TEST_F(ProfileTaskTest, TellsEachBlockAndThenOneNumberALayer) {
  EngineClient client(model());
  const uint64_t task = client->profile(tokens(70), kSmall);
  const Event done = client.last(task);
  ASSERT_EQ(done.kind, EventKind::kDone) << done.status.message();
  ASSERT_EQ(done.values.size(), 2u);
  EXPECT_EQ(done.values[0], 1.0f);
  EXPECT_LT(done.values[1], 0.999f);
  std::vector<int64_t> told;
  for (const Event& event : client.events()) {
    if (event.task != task) continue;
    told.push_back(event.done);
    EXPECT_EQ(event.total, 70);
  }
  EXPECT_EQ(told, (std::vector<int64_t>{16, 32, 48, 64, 70}));
  EXPECT_EQ(client->memory().reserved_bytes, 0) << "told when its pages are free again";
}

TEST_F(ProfileTaskTest, EndsBetweenBlocksWhenItIsCancelled) {
  std::atomic<uint64_t> victim{UINT64_MAX};
  EngineClient client(model(), [&](Engine& engine, const Event& event) {
    if (event.task == victim && event.kind == EventKind::kProgress) engine.cancel(event.task);
  });
  victim = client.last(client->score(tokens(4), {})).task + 1;
  const uint64_t task = client->profile(tokens(700), kSmall);
  const Event done = client.last(task);
  EXPECT_EQ(done.kind, EventKind::kDone);
  EXPECT_EQ(done.finish, FinishReason::kCancelled);
  EXPECT_TRUE(done.values.empty());
  int steps = 0;
  for (const Event& event : client.events()) steps += event.task == task && !testing::is_last(event) ? 1 : 0;
  EXPECT_EQ(steps, 1);
  EXPECT_EQ(client->memory().reserved_bytes, 0);
  EXPECT_EQ(client->memory().used_bytes, 0);
}

TEST_F(ProfileTaskTest, RefusesWhatCannotBeAndLeavesTheEngineServing) {
  constexpr int32_t kMost = std::numeric_limits<int32_t>::max();
  EngineClient client(model(), {}, 1 << 20);
  const auto code = [&](const std::vector<int32_t>& text, const ProfileOptions& options) {
    return client.last(client->profile(text, options)).status.code();
  };
  EXPECT_EQ(code({}, kSmall), Code::kInvalidArgument);
  EXPECT_EQ(code({64}, kSmall), Code::kInvalidArgument);
  EXPECT_EQ(code(tokens(5000), kSmall), Code::kInvalidArgument) << "the model has 4096 positions";
  EXPECT_EQ(code(tokens(70), {.sinks = 2, .window = 8, .block = 0}), Code::kInvalidArgument);
  EXPECT_EQ(code(tokens(70), {.sinks = 2, .window = 0, .block = 16}), Code::kInvalidArgument);
  EXPECT_EQ(code(tokens(70), {.sinks = 2, .window = 17, .block = 16}), Code::kInvalidArgument);
  EXPECT_EQ(code(tokens(70), {.sinks = -1, .window = 8, .block = 16}), Code::kInvalidArgument);
  EXPECT_EQ(code(tokens(70), {.sinks = kMost, .window = 8, .block = 16}), Code::kInvalidArgument);
  EXPECT_EQ(code(tokens(70), {.sinks = kMost - 8, .window = 8, .block = 16}), Code::kOutOfMemory);
  const Event full = client.last(client->profile(tokens(4000), kSmall));
  EXPECT_EQ(full.status.code(), Code::kOutOfMemory);
  EXPECT_NE(full.status.message().find("a profile of 4000 tokens keeps all"), std::string::npos);
  EXPECT_EQ(client->memory().reserved_bytes, 0);
  EXPECT_EQ(client.last(client->profile(tokens(70), kSmall)).values.size(), 2u);
}

// Finite weights can still overflow.
TEST_F(ProfileTaskTest, RefusesKeysThatAreNoNumbers) {
  TemporaryDirectory directory;
  testing::write_model({.norm = 1e38f}, directory.path());
  EngineClient client(directory.path());
  const Event event = client.last(client->profile(tokens(70), kSmall));
  EXPECT_EQ(event.status.code(), Code::kCorruptFile);
  EXPECT_NE(event.status.message().find("keys of layer"), std::string::npos) << event.status.message();
}

}  // namespace
}  // namespace longhaul
