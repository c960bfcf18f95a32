// What is left of a sequence when a pass breaks off.
#include "engine/sequence.h"

#include <gtest/gtest.h>

#include <new>

#include "machine.h"

namespace longhaul {
namespace {

// Breaks a pass between its layers, in one of the ways in which that can happen.
class Breaker : public PassObserver {
 public:
  explicit Breaker(bool throws) : throws_(throws) {}
  Status on_hidden(int32_t index, const Tensor&) override {
    if (index == 0) return Status();
    if (throws_) throw std::bad_alloc();
    return internal_error("broken on purpose");
  }
  Status on_evicted(int32_t) override { return Status(); }
  Status on_scores(int32_t, const Tensor&, int32_t) override { return Status(); }

 private:
  bool throws_;
};

class BrokenPass : public ::testing::TestWithParam<bool> {};

// Layers disagree from then on: whatever is asked of the sequence must be refused, not answered wrongly.
TEST_P(BrokenPass, EndsItsSequenceAndNoOther) {
  testing::Machine machine = testing::make_machine(testing::kFastDevice, {}, 1 << 20);
  MemoryPolicy policy;
  policy.kind = PolicyKind::kKeyDiff;
  policy.budgets = {20, 20};
  policy.block = 16;
  policy.tail = 16;
  std::unique_ptr<Sequence> broken = machine.sequence(policy);
  std::unique_ptr<Sequence> sound = machine.sequence(policy);

  const std::vector<int32_t> tokens(16, 3);
  ASSERT_TRUE(broken->prefill(tokens).ok());
  Breaker breaker(GetParam());
  const Status status = broken->extend(tokens, &breaker);
  EXPECT_EQ(status.code(), GetParam() ? Code::kOutOfMemory : Code::kInternal);
  EXPECT_EQ(broken->tokens_seen(), 16);

  for (const Status& refused : {broken->admit(1), broken->extend({tokens.data(), 1}), broken->prefill(tokens),
                                broken->evict_tail(), broken->truncate(0)}) {
    EXPECT_NE(refused.message().find("cannot be used any more"), std::string::npos) << refused.message();
  }
  EXPECT_TRUE(sound->prefill(tokens).ok());
  sound.reset();
  broken.reset();
  EXPECT_EQ(machine.pool->reserved_pages(), 0);
  EXPECT_EQ(machine.pool->used_pages(), 0);
}

INSTANTIATE_TEST_SUITE_P(Ways, BrokenPass, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "exception" : "status"; });

}  // namespace
}  // namespace longhaul
