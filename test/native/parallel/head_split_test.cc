#include "parallel/head_split.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace longhaul {
namespace {

struct Heads {
  int32_t heads, kv_heads;
};
constexpr Heads kHeads[] = {{8, 8},  {8, 2},  {12, 3}, {14, 7}, {28, 7},
                            {40, 8}, {32, 8}, {32, 1}, {5, 5},  {64, 2}};

TEST(HeadSplit, EveryQueryHeadHasOneRankThatHoldsItsKvHead) {
  for (const Heads& h : kHeads) {
    for (int ranks : {1, 2, 3, 4, 5, 8, 16, 32}) {
      const auto split = HeadSplit::make(h.heads, h.kv_heads, ranks);
      if (!split.ok()) continue;
      const int32_t group = h.heads / h.kv_heads;
      int32_t next = 0;
      for (int r = 0; r < ranks; ++r) {
        const HeadRange query = split.value().query[static_cast<size_t>(r)];
        const HeadRange kv = split.value().kv[static_cast<size_t>(r)];
        ASSERT_EQ(query.first, next) << h.heads << "/" << h.kv_heads << " on " << ranks;
        ASSERT_GE(query.count, 1);
        ASSERT_GE(kv.count, 1);
        // Heads of the rank are grouped evenly, as attention takes them.
        ASSERT_EQ(query.count % kv.count, 0);
        for (int32_t i = 0; i < query.count; ++i) {
          ASSERT_EQ((query.first + i) / group, kv.first + i / (query.count / kv.count));
        }
        next += query.count;
      }
      ASSERT_EQ(next, h.heads);
    }
  }
}

TEST(HeadSplit, IsTheUsualRuleWhereHeadsDivide) {
  const HeadSplit split = HeadSplit::make(32, 8, 16).value();
  for (int r = 0; r < 16; ++r) {
    EXPECT_EQ(split.query[static_cast<size_t>(r)].first, 2 * r);
    EXPECT_EQ(split.query[static_cast<size_t>(r)].count, 2);
    EXPECT_EQ(split.kv[static_cast<size_t>(r)].first, r / 2);
    EXPECT_EQ(split.kv[static_cast<size_t>(r)].count, 1);
  }
  EXPECT_EQ(HeadSplit::make(32, 8, 4).value().kv[1].count, 2);
}

TEST(HeadSplit, UnevenHeadsGoToRanksInRuns) {
  const HeadSplit seven = HeadSplit::make(14, 7, 4).value();
  std::vector<int32_t> counts;
  for (const HeadRange& range : seven.query) counts.push_back(range.count);
  EXPECT_EQ(counts, (std::vector<int32_t>{2, 4, 4, 4}));
  counts.clear();
  const HeadSplit three = HeadSplit::make(12, 3, 8).value();
  for (const HeadRange& range : three.query) counts.push_back(range.count);
  EXPECT_EQ(counts, (std::vector<int32_t>{1, 1, 2, 1, 1, 2, 2, 2}));
}

TEST(HeadSplit, RanksWithoutAHeadAreRefused) {
  for (const auto& [h, ranks] : {std::pair<Heads, int>{{8, 8}, 16}, {{12, 3}, 16}, {{14, 7}, 15}}) {
    const Status status = HeadSplit::make(h.heads, h.kv_heads, ranks).status();
    EXPECT_EQ(status.code(), Code::kInvalidArgument);
    EXPECT_NE(status.message().find("at most"), std::string::npos) << status.message();
  }
  EXPECT_TRUE(HeadSplit::make(12, 3, 12).ok());
  EXPECT_EQ(HeadSplit::make(8, 3, 2).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(HeadSplit::make(8, 2, 0).status().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace longhaul
