// What a policy reserves, by the formula's own terms, and which policies are refused.
#include "kv/policy.h"

#include <gtest/gtest.h>

#include <limits>

namespace longhaul {
namespace {

constexpr KvGeometry kGeometry{.layers = 2, .kv_heads = 3, .head_dim = 8, .dtype = DType::kF32};

MemoryPolicy policy_of(PolicyKind kind) {
  MemoryPolicy policy;
  policy.kind = kind;
  policy.budgets = {100, 40};
  policy.block = 30;
  policy.tail = 17;
  policy.window = 5;
  policy.prompt = {1, 2, 3};
  return policy;
}

TEST(PolicyTest, PageHoldsKeysValuesAndPositions) {
  EXPECT_EQ(kGeometry.page_bytes(), 16 * (2 * 8 * 4 + 4));
}

TEST(PolicyTest, ReservationAddsKeptRowsTailAndTheBlockInHand) {
  // Kept: floor(100 * 3 / 16) + 3 and floor(40 * 3 / 16) + 3. Tail: 2 layers, 3 heads, 2 pages. Block: 3 heads
  // of 30 rows, and 33 with the prompt, 35 with the window, 31 with the newest token, 63 with prompt and
  // repetition.
  const int64_t kept = (18 + 3) + (7 + 3);
  const int64_t tail = 2 * 3 * 2;
  EXPECT_EQ(reservation_pages(policy_of(PolicyKind::kKeyDiff), kGeometry), kept + tail + 3 * 2);
  EXPECT_EQ(reservation_pages(policy_of(PolicyKind::kPatchedPrompt), kGeometry), kept + tail + 3 * 3);
  EXPECT_EQ(reservation_pages(policy_of(PolicyKind::kEpisodic), kGeometry), kept + tail + 3 * 3);
  EXPECT_EQ(reservation_pages(policy_of(PolicyKind::kSnapKv), kGeometry), kept + tail + 3 * 3);
  EXPECT_EQ(reservation_pages(policy_of(PolicyKind::kTova), kGeometry), kept + tail + 3 * 2);
  EXPECT_EQ(reservation_pages(policy_of(PolicyKind::kKvZip), kGeometry), kept + tail + 3 * 4);
  const std::string text = explain_reservation(policy_of(PolicyKind::kPatchedPrompt), kGeometry);
  EXPECT_NE(text.find("= 52 pages of 1088 bytes = 56576 bytes"), std::string::npos) << text;
}

TEST(PolicyTest, ReservesForALongerPromptWhereItIsTold) {
  MemoryPolicy policy = policy_of(PolicyKind::kPatchedPrompt);
  const int64_t own = reservation_pages(policy, kGeometry);
  policy.prompt_rows = 2;
  EXPECT_EQ(reservation_pages(policy, kGeometry), own) << "the prompt is longer";
  policy.prompt_rows = 70;
  const int64_t pages = reservation_pages(policy, kGeometry);
  EXPECT_EQ(pages, own - 3 * 3 + 3 * 7) << "100 rows instead of 33";
  EXPECT_EQ(head_capacity(policy, kGeometry), 100 * 3 + 17 + 30 + 70);
  policy.prompt.resize(70, 1);
  EXPECT_EQ(reservation_pages(policy, kGeometry), pages);
  policy.kind = PolicyKind::kKeyDiff;
  EXPECT_EQ(policy.observers(), 0) << "no prompt observes";
  policy.prompt_rows = -1;
  EXPECT_FALSE(check(policy, kGeometry).ok());
}

TEST(PolicyTest, OneHeadMayHoldTheBudgetOfAllOnlyAtLevelPair) {
  MemoryPolicy policy = policy_of(PolicyKind::kPatchedPrompt);
  EXPECT_EQ(head_capacity(policy, kGeometry), 100 * 3 + 17 + 30 + 3);
  policy.level = SelectLevel::kHead;
  EXPECT_EQ(head_capacity(policy, kGeometry), 100 + 17 + 30 + 3);
  for (const auto& [kind, observers] : {std::pair(PolicyKind::kStreaming, 0), {PolicyKind::kTova, 1}}) {
    EXPECT_EQ(head_capacity(policy_of(kind), kGeometry), 100 + 17 + 30 + observers) << "its heads are alike";
  }
}

TEST(PolicyTest, HugeOptionsDoNotOverflow) {
  constexpr int32_t kMost = std::numeric_limits<int32_t>::max();
  MemoryPolicy policy = policy_of(PolicyKind::kSnapKv);
  policy.budgets = {kMost, kMost};
  policy.block = policy.tail = kMost;
  policy.window = kMost - 1;
  EXPECT_TRUE(check(policy, kGeometry).ok());
  EXPECT_GT(reservation_pages(policy, kGeometry), int64_t{kMost});
  EXPECT_GT(head_capacity(policy, kGeometry), int64_t{kMost} * 3);
  EXPECT_EQ(explain_reservation(policy, kGeometry).find('-'), std::string::npos);
  policy.kind = PolicyKind::kKvZip;
  EXPECT_TRUE(check(policy, kGeometry).ok());
  EXPECT_EQ(policy.observers(), int64_t{kMost} + 3);
  EXPECT_EQ(explain_reservation(policy, kGeometry).find('-'), std::string::npos);
}

TEST(PolicyTest, RefusalsNameTheOption) {
  const auto refused = [](PolicyKind kind, const char* option, auto change) {
    MemoryPolicy policy = policy_of(kind);
    EXPECT_TRUE(check(policy, kGeometry).ok());
    change(policy);
    const Status status = check(policy, kGeometry);
    EXPECT_EQ(status.code(), Code::kInvalidArgument);
    EXPECT_EQ(status.message().find(option), 0u) << status.message();
  };
  refused(PolicyKind::kFull, "block", [](MemoryPolicy& p) { p.block = 0; });
  refused(PolicyKind::kKeyDiff, "tail", [](MemoryPolicy& p) { p.tail = 0; });
  refused(PolicyKind::kKeyDiff, "budget", [](MemoryPolicy& p) { p.budgets = {100}; });
  refused(PolicyKind::kKeyDiff, "budget", [](MemoryPolicy& p) { p.budgets[1] = 0; });
  refused(PolicyKind::kStreaming, "sinks", [](MemoryPolicy& p) { p.sinks = 40; });
  refused(PolicyKind::kStreaming, "sinks", [](MemoryPolicy& p) { p.sinks = -1; });
  refused(PolicyKind::kSnapKv, "window", [](MemoryPolicy& p) { p.window = 40; });
  refused(PolicyKind::kSnapKvRefed, "window", [](MemoryPolicy& p) { p.window = 0; });
  refused(PolicyKind::kSnapKv, "kernel", [](MemoryPolicy& p) { p.pool_kernel = 4; });
  refused(PolicyKind::kPatchedPrompt, "policy 'patched-prompt'", [](MemoryPolicy& p) { p.prompt.clear(); });
  refused(PolicyKind::kEpisodic, "own has a begin", [](MemoryPolicy& p) { p.own = {4}; });
  refused(PolicyKind::kEpisodic, "own must ascend, not go from 4 to 4", [](MemoryPolicy& p) {
    p.own = {2, 4, 4, 9};
  });
  refused(PolicyKind::kEpisodic, "own must ascend, not go from -1 to -1", [](MemoryPolicy& p) {
    p.own = {-1, 9};
  });
}

}  // namespace
}  // namespace longhaul
