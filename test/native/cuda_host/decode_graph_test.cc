// Decode passes as recorded graphs: same bits as uncaptured ones, recorded once a shape.
#include <gtest/gtest.h>

#include "emulated/emulated_devices.h"
#include "emulator/emulator.h"
#include "engine/random_model.h"
#include "engine/sequence.h"

namespace longhaul {
namespace {

// Keeps a pass from being recorded, and looks at nothing.
class Bystander : public PassObserver {
 public:
  Status on_hidden(int32_t, const Tensor&) override { return Status(); }
  Status on_evicted(int32_t) override { return Status(); }
  Status on_scores(int32_t, const Tensor&, int32_t) override { return Status(); }
};

class DecodeGraphTest : public ::testing::Test {
 protected:
  void SetUp() override {
    emulator::reset();
    testing::write_model({}, directory_.path());
    backend_ = std::move(testing::make_cuda_emulated_backend(80).value());
    model_ = std::move(Transformer::load(*backend_, directory_.path(), nullptr).value());
    pool_ = std::move(PagePool::create(*backend_, model_->kv_geometry(), 4 << 20).value());
  }
  void TearDown() override { EXPECT_EQ(emulator::take_report(), ""); }

  std::unique_ptr<Sequence> sequence(int32_t budget, int32_t block = 64) {
    MemoryPolicy policy;
    policy.kind = PolicyKind::kKeyDiff;
    policy.budgets = {budget, budget};
    policy.block = block;
    policy.tail = 64;
    Result<std::unique_ptr<Sequence>> made = Sequence::create(*model_, *pool_, policy);
    EXPECT_TRUE(made.ok()) << made.status().message();
    return std::move(made.value());
  }

  std::vector<float> logits(Sequence& sequence) {
    const Tensor device = model_->logits(sequence.last_row(), 1).value();
    std::vector<float> host(static_cast<size_t>(device.elements()));
    EXPECT_TRUE(
        backend_->download(model_->stream(), host.data(), device.data, host.size() * sizeof(float)).ok());
    return host;
  }

  // The logits behind each of `count` tokens, and how many kernels each pass queued by itself.
  struct Run {
    std::vector<std::vector<float>> logits;
    std::vector<uint64_t> launches;
  };
  Run decode(Sequence& sequence, int32_t count, PassObserver* observer = nullptr) {
    Run run;
    for (int32_t i = 0; i < count; ++i) {
      const int32_t token = (7 * i + 3) % 64;
      const uint64_t before = emulator::counts().launches;
      const Status status = sequence.extend({&token, 1}, observer);
      EXPECT_TRUE(status.ok()) << status.message();
      run.launches.push_back(emulator::counts().launches - before);
      run.logits.push_back(logits(sequence));
    }
    return run;
  }

  TemporaryDirectory directory_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Transformer> model_;
  std::unique_ptr<PagePool> pool_;
};

TEST_F(DecodeGraphTest, ReplayedPassesGiveTheBitsOfUncapturedOnes) {
  const std::vector<int32_t> prompt(40, 11);
  const std::unique_ptr<Sequence> captured = sequence(48), plain = sequence(48);
  ASSERT_TRUE(captured->prefill(prompt).ok());
  ASSERT_TRUE(plain->prefill(prompt).ok());
  Bystander bystander;
  // Past a full page, so that replays take pages off the stack.
  const Run replayed = decode(*captured, 20);
  const Run uncaptured = decode(*plain, 20, &bystander);
  EXPECT_EQ(replayed.logits, uncaptured.logits);
  EXPECT_EQ(captured->memory().value().rows, plain->memory().value().rows);
  EXPECT_EQ(captured->memory().value().used_bytes, plain->memory().value().used_bytes);
  EXPECT_EQ(captured->memory().value().peak_bytes, plain->memory().value().peak_bytes);

  EXPECT_GT(replayed.launches[0], 0u);
  EXPECT_EQ(replayed.launches[0], uncaptured.launches[0]);
  for (size_t i = 1; i < replayed.launches.size(); ++i) {
    EXPECT_EQ(replayed.launches[i], 0u) << i;
    EXPECT_EQ(uncaptured.launches[i], uncaptured.launches[0]) << i;
  }
}

TEST_F(DecodeGraphTest, OneRecordingServesSequencesThatTakeTurns) {
  const std::unique_ptr<Sequence> first = sequence(32), second = sequence(32), alone = sequence(32);
  ASSERT_TRUE(first->prefill(std::vector<int32_t>(20, 1)).ok());
  ASSERT_TRUE(second->prefill(std::vector<int32_t>(30, 2)).ok());
  ASSERT_TRUE(alone->prefill(std::vector<int32_t>(30, 2)).ok());
  const Run expected = decode(*alone, 3);
  for (size_t i = 0; i < 3; ++i) {
    const int32_t token = (7 * static_cast<int32_t>(i) + 3) % 64;
    ASSERT_EQ(decode(*first, 1).launches, std::vector<uint64_t>{0});
    ASSERT_TRUE(second->extend({&token, 1}).ok());
    EXPECT_EQ(logits(*second), expected.logits[i]) << i;
  }
}

TEST_F(DecodeGraphTest, LongerHeadsAreRecordedOncePerPowerOfTwo) {
  const std::unique_ptr<Sequence> captured = sequence(600), plain = sequence(600);
  Bystander bystander;
  for (Sequence* each : {captured.get(), plain.get()}) {
    for (int block = 0; block < 4; ++block) {
      ASSERT_TRUE(each->prefill(std::vector<int32_t>(block < 3 ? 64 : 60, 5 + block)).ok());
    }
  }
  // 252 rows: heads of 257 and more want another bound.
  const Run replayed = decode(*captured, 8);
  const Run uncaptured = decode(*plain, 8, &bystander);
  EXPECT_EQ(replayed.logits, uncaptured.logits);
  const auto& launched = uncaptured.launches;  // longer heads are split and merged: more kernels
  EXPECT_GT(launched[4], launched[0]);
  EXPECT_EQ(replayed.launches, (std::vector<uint64_t>{launched[0], 0, 0, 0, launched[4], 0, 0, 0}));
}

TEST_F(DecodeGraphTest, MovedScratchMemoryIsRecordedAnew) {
  const std::unique_ptr<Sequence> captured = sequence(48), plain = sequence(48);
  ASSERT_TRUE(captured->prefill(std::vector<int32_t>(40, 11)).ok());
  ASSERT_TRUE(plain->prefill(std::vector<int32_t>(40, 11)).ok());
  Bystander bystander;
  const Run uncaptured = decode(*plain, 6, &bystander);
  const Run before = decode(*captured, 3);
  EXPECT_EQ(before.logits, std::vector(uncaptured.logits.begin(), uncaptured.logits.begin() + 3));

  const std::unique_ptr<Sequence> larger = sequence(200, 128);  // wants more scratch memory
  for (size_t i = 3; i < 6; ++i) {
    const int32_t token = (7 * static_cast<int32_t>(i) + 3) % 64;
    const uint64_t launches = emulator::counts().launches;
    ASSERT_TRUE(captured->extend({&token, 1}).ok());
    EXPECT_EQ(emulator::counts().launches - launches, i == 3 ? uncaptured.launches[0] : 0) << i;
    EXPECT_EQ(logits(*captured), uncaptured.logits[i]) << i;
  }
}

}  // namespace
}  // namespace longhaul
