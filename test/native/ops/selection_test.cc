// select: against a plain sort, exactly.
#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/cache_case.h"
#include "ops/tolerance.h"

namespace longhaul::testing {
namespace {

class SelectionTest : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, SelectionTest, ::testing::ValuesIn(Device::all()), DeviceName());

struct SelectCase {
  CacheCase cache;
  Array scores;  // empty: none
  int32_t drop_last = 0;
  int32_t protect_first = 0;
  int32_t protect_last = 0;
  int32_t budget = 1;
  SelectLevel level = SelectLevel::kPair;
};

using Kept = std::vector<std::vector<int32_t>>;  // by head

SelectCase select_case(Random& random, std::vector<int32_t> lengths, bool with_scores = true) {
  SelectCase c{CacheCase(random, {DType::kF32, 2, {std::move(lengths)}, 0}), {}};
  if (with_scores)
    c.scores = Array::normal(random, DType::kF32, {c.cache.kv_heads(), c.cache.longest() + 3}, 2);
  return c;
}

void set_scores(SelectCase& c, int64_t head, const std::vector<double>& scores) {
  for (size_t i = 0; i < scores.size(); ++i) {
    c.scores.set(head * c.scores.shape[1] + static_cast<int64_t>(i), scores[i]);
  }
}

Kept run_select(Device& device, SelectCase c) {
  const int32_t heads = c.cache.kv_heads();
  Array kept(DType::kI32, {heads, c.cache.longest() + 1}, 4);
  Array count(DType::kI32, {heads});
  Placement p(device);
  const PlacedCache placed = place(p, c.cache, CacheUse::kRead);
  SelectArgs args;
  args.view = placed.views;
  args.scores = p.in(c.scores);
  args.kv_heads = heads;
  args.drop_last = c.drop_last;
  args.protect_first = c.protect_first;
  args.protect_last = c.protect_last;
  args.budget = c.budget;
  args.level = c.level;
  args.kept = p.out(kept);
  args.kept_count = p.out(count);
  EXPECT_OK(
      run(device.backend(), device.stream(), args, p.workspace(device.backend().ops().select_workspace(args))));
  p.finish();
  Kept out(static_cast<size_t>(heads));
  for (int32_t h = 0; h < heads; ++h) {
    for (int64_t i = 0; i < static_cast<int64_t>(count.get(h)); ++i) {
      out[static_cast<size_t>(h)].push_back(static_cast<int32_t>(kept.at({h, i})));
    }
  }
  return out;
}

TEST_P(SelectionTest, PairLevelTakesTheBestOfAllHeads) {
  SelectCase c = select_case(random, {4, 3});
  set_scores(c, 0, {0.9, 0.1, 0.8, 0.7});
  set_scores(c, 1, {0.2, 0.3, 0.85});
  c.budget = 2;
  EXPECT_EQ(run_select(device(), c), (Kept{{0, 2, 3}, {2}}));
}

TEST_P(SelectionTest, HeadLevelTakesTheBestOfEachHead) {
  SelectCase c = select_case(random, {4, 3, 2});
  set_scores(c, 0, {0.9, 0.1, 0.8, 0.7});
  set_scores(c, 1, {0.2, 0.3, 0.85});
  c.budget = 2;
  c.level = SelectLevel::kHead;
  EXPECT_EQ(run_select(device(), c), (Kept{{0, 2}, {1, 2}, {0, 1}}));
}

TEST_P(SelectionTest, AHeadMayEndUpEmpty) {
  SelectCase c = select_case(random, {4, 4});
  set_scores(c, 0, {5, 6, 7, 8});
  set_scores(c, 1, {1, 2, 3, 4});
  c.budget = 2;
  EXPECT_EQ(run_select(device(), c), (Kept{{0, 1, 2, 3}, {}}));
}

TEST_P(SelectionTest, TiesGoToTheLowestHeadThenRow) {
  SelectCase c = select_case(random, {4, 4});
  set_scores(c, 0, {0, 1, -0.0, 0});
  set_scores(c, 1, {0, 0, 1, 0});
  c.budget = 2;
  EXPECT_EQ(run_select(device(), c), (Kept{{0, 1, 2}, {2}}));
}

TEST_P(SelectionTest, NanIsWorseThanAnything) {
  SelectCase c = select_case(random, {3, 3});
  const double infinity = std::numeric_limits<double>::infinity();
  set_scores(c, 0, {std::nan(""), -infinity, -std::nan("")});
  set_scores(c, 1, {infinity, std::nan(""), -3e38});
  c.budget = 2;
  EXPECT_EQ(run_select(device(), c), (Kept{{0, 1}, {0, 2}}));
}

TEST_P(SelectionTest, RowsThatFitAllStay) {
  SelectCase c = select_case(random, {1, 7, 4});
  c.budget = 4;
  EXPECT_EQ(run_select(device(), c), (Kept{{0}, {0, 1, 2, 3, 4, 5, 6}, {0, 1, 2, 3}}));
}

TEST_P(SelectionTest, DroppedRowsAreNoCandidates) {
  SelectCase c = select_case(random, {5, 2});
  set_scores(c, 0, {1, 2, 3, 9, 9});
  set_scores(c, 1, {9, 9});
  c.drop_last = 2;
  c.budget = 1;
  EXPECT_EQ(run_select(device(), c), (Kept{{1, 2}, {}}));
}

TEST_P(SelectionTest, ProtectedRowsCountAgainstTheBudget) {
  SelectCase c = select_case(random, {6, 6});
  set_scores(c, 0, {0, 5, 4, 3, 2, 0});
  set_scores(c, 1, {0, 1, 9, 8, 1, 0});
  c.protect_first = 1;
  c.protect_last = 1;
  c.budget = 3;
  EXPECT_EQ(run_select(device(), c), (Kept{{0, 5}, {0, 2, 3, 5}}));
  c.level = SelectLevel::kHead;
  EXPECT_EQ(run_select(device(), c), (Kept{{0, 1, 5}, {0, 2, 5}}));
  // More protected rows than the budget: they stay, and nothing else does.
  c.budget = 1;
  EXPECT_EQ(run_select(device(), c), (Kept{{0, 5}, {0, 5}}));
}

TEST_P(SelectionTest, WithoutScoresSinksAndTheNewestRowsStay) {
  SelectCase c = select_case(random, {20, 3, 9}, false);
  c.level = SelectLevel::kHead;
  c.protect_first = 2;
  c.budget = 6;
  EXPECT_EQ(run_select(device(), c), (Kept{{0, 1, 16, 17, 18, 19}, {0, 1, 2}, {0, 1, 5, 6, 7, 8}}));
  c.drop_last = 4;
  EXPECT_EQ(run_select(device(), c), (Kept{{0, 1, 12, 13, 14, 15}, {}, {0, 1, 2, 3, 4}}));
}

TEST_P(SelectionTest, WithoutScoresNewnessCountsFromTheEndOfEachHead) {
  SelectCase c = select_case(random, {10, 4}, false);
  c.budget = 3;
  EXPECT_EQ(run_select(device(), c), (Kept{{7, 8, 9}, {1, 2, 3}}));
}

// All rows in one list, sorted.
Kept sorted_selection(const SelectCase& c) {
  struct Row {
    bool is_protected;
    double score;
    int32_t head, row;
  };
  const int32_t heads = c.cache.kv_heads();
  Kept out(static_cast<size_t>(heads));
  const auto keep_best = [&](int32_t first, int32_t last, int64_t budget) {
    std::vector<Row> all;
    for (int32_t h = first; h < last; ++h) {
      const int32_t n = std::max(c.cache.length(0, h) - c.drop_last, 0);
      for (int32_t r = 0; r < n; ++r) {
        const bool is_protected = r < c.protect_first || r + c.protect_last >= n;
        all.push_back({is_protected, c.scores.at({h, r}), h, r});
        if (is_protected && static_cast<int64_t>(std::count_if(all.begin(), all.end(), [](const Row& x) {
                              return x.is_protected;
                            })) > budget) {
          ++budget;
        }
      }
    }
    std::stable_sort(all.begin(), all.end(), [](const Row& a, const Row& b) {
      return a.is_protected != b.is_protected ? a.is_protected : !a.is_protected && a.score > b.score;
    });
    for (size_t i = 0; i < all.size() && static_cast<int64_t>(i) < budget; ++i) {
      out[static_cast<size_t>(all[i].head)].push_back(all[i].row);
    }
  };
  if (c.level == SelectLevel::kPair) {
    keep_best(0, heads, static_cast<int64_t>(c.budget) * heads);
  } else {
    for (int32_t h = 0; h < heads; ++h) keep_best(h, h + 1, c.budget);
  }
  for (auto& rows : out) std::sort(rows.begin(), rows.end());
  return out;
}

TEST_P(SelectionTest, MatchesSorting) {
  const std::vector<int32_t> shapes[] = {{1}, {70}, {5, 0, 131}, {40, 40, 40, 40, 40, 40, 40, 40}, {700, 300}};
  for (const auto& lengths : shapes) {
    for (int32_t budget : {1, 7, 32, 100, 1000}) {
      for (int variant = 0; variant < 16; ++variant) {
        SelectCase c = select_case(random, lengths);
        c.budget = budget;
        c.level = variant % 2 == 0 ? SelectLevel::kPair : SelectLevel::kHead;
        c.drop_last = variant / 2 % 2 * 9;
        c.protect_first = variant / 4 % 2 * 4;
        c.protect_last = variant / 4 % 2 * 6;
        if (variant / 8 == 1) {
          // As attention weights are: positive, tiny, with many ties.
          for (int64_t i = 0; i < c.scores.size(); ++i) {
            c.scores.set(i, std::exp(-std::floor(std::fabs(c.scores.get(i)) * 4)) * 1e-6);
          }
        }
        SCOPED_TRACE("budget " + std::to_string(budget) + " variant " + std::to_string(variant) + " heads " +
                     std::to_string(lengths.size()));
        ASSERT_EQ(run_select(device(), c), sorted_selection(c));
      }
    }
  }
}

// Heads that take several blocks, and ties that cross them.
TEST_P(SelectionTest, LongHeadsMatchSorting) {
  for (int variant = 0; variant < 4; ++variant) {
    SelectCase c = select_case(random, {5000, 9001, 0, 4096, 3});
    c.budget = 1500;
    c.level = variant % 2 == 0 ? SelectLevel::kPair : SelectLevel::kHead;
    c.protect_last = 5;
    if (variant / 2 == 1) {
      for (int64_t i = 0; i < c.scores.size(); ++i) c.scores.set(i, std::floor(c.scores.get(i)));
    }
    SCOPED_TRACE("variant " + std::to_string(variant));
    ASSERT_EQ(run_select(device(), c), sorted_selection(c));
  }
}

}  // namespace
}  // namespace longhaul::testing
