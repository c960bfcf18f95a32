// rank_rows, copy_rows and select with only_scored: what several selections over one cache take.
#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/cache_case.h"
#include "ops/tolerance.h"

namespace longhaul::testing {
namespace {

class SharedCacheTest : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, SharedCacheTest, ::testing::ValuesIn(Device::all()), DeviceName());

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// Chosen rows of each head, ascending, with gaps between the heads' lists.
struct Chosen {
  Array kept, counts;
};

Chosen choose(Random& random, const CacheCase& cache, int64_t sequence, uint64_t percent) {
  const int32_t heads = cache.kv_heads();
  Chosen c{Array(DType::kI32, {heads, cache.longest() + 2}, 3), {}};
  std::vector<int32_t> counts;
  for (int32_t h = 0; h < heads; ++h) {
    int32_t count = 0;
    for (int32_t r = 0; r < cache.length(sequence, h); ++r) {
      if (random() % 100 < percent) c.kept.set(h * c.kept.shape[1] + count++, r);
    }
    counts.push_back(count);
  }
  c.counts = Array::integers(counts);
  return c;
}

struct RankCase {
  CacheCase cache;
  Array scores;
  Chosen chosen;
  SelectLevel level = SelectLevel::kPair;
};

Array run_rank(Device& device, RankCase c, Array best, bool accumulate) {
  Placement p(device);
  const PlacedCache placed = place(p, c.cache, CacheUse::kRead);
  RankRowsArgs args;
  args.view = placed.views;
  args.scores = p.in(c.scores);
  args.kept = p.in(c.chosen.kept);
  args.kept_count = p.in(c.chosen.counts);
  args.kv_heads = c.cache.kv_heads();
  args.level = c.level;
  args.accumulate = accumulate;
  args.best = p.out(best);
  EXPECT_OK(run(device.backend(), device.stream(), args,
                p.workspace(device.backend().ops().rank_rows_workspace(args))));
  p.finish();
  return best;
}

// All chosen rows in one list, sorted as select does.
void expect_ranks(const RankCase& c, const Array& before, bool accumulate, const Array& actual) {
  struct Row {
    double score;
    int32_t head, row;
  };
  const int32_t heads = c.cache.kv_heads();
  Array expected = before;
  const int64_t width = expected.shape[1];
  for (int32_t h = 0; h < heads && !accumulate; ++h) {
    for (int32_t r = 0; r < c.cache.length(0, h); ++r) expected.set(h * width + r, kNan);
  }
  const auto rank = [&](int32_t first, int32_t last) {
    std::vector<Row> rows;
    for (int32_t h = first; h < last; ++h) {
      for (int64_t i = 0; i < static_cast<int64_t>(c.chosen.counts.get(h)); ++i) {
        const auto row = static_cast<int32_t>(c.chosen.kept.at({h, i}));
        rows.push_back({c.scores.at({h, row}), h, row});
      }
    }
    std::stable_sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) {
      return std::isnan(b.score) ? !std::isnan(a.score) : a.score > b.score;
    });
    for (size_t i = 0; i < rows.size(); ++i) {
      const int64_t at = rows[i].head * width + rows[i].row;
      const double old = expected.get(at);
      const double value = -static_cast<double>(i);
      expected.set(at, std::isnan(old) ? value : std::max(old, value));
    }
  };
  if (c.level == SelectLevel::kPair) {
    rank(0, heads);
  } else {
    for (int32_t h = 0; h < heads; ++h) rank(h, h + 1);
  }
  for (int64_t i = 0; i < expected.size(); ++i) {
    if (std::isnan(expected.get(i))) {
      ASSERT_TRUE(std::isnan(actual.get(i))) << "element " << i;
    } else {
      ASSERT_EQ(actual.get(i), expected.get(i)) << "element " << i;
    }
  }
}

TEST_P(SharedCacheTest, RanksAreTheOrderOfSelect) {
  const std::vector<int32_t> shapes[] = {{1}, {70}, {5, 0, 131}, {700, 300}, {30, 30, 30, 30, 30, 30, 30, 30}};
  for (const auto& lengths : shapes) {
    for (uint64_t percent : {0, 20, 100}) {
      for (int variant = 0; variant < 8; ++variant) {
        const CacheCase cache(random, {DType::kF32, 2, {lengths}, 0});
        RankCase c{cache, Array::normal(random, DType::kF32, {cache.kv_heads(), cache.longest() + 3}, 2), {}};
        c.chosen = choose(random, cache, 0, percent);
        c.level = variant % 2 == 0 ? SelectLevel::kPair : SelectLevel::kHead;
        if (variant / 4 == 1) {  // ties, and scores that are no numbers
          for (int64_t i = 0; i < c.scores.size(); ++i) {
            c.scores.set(i, random() % 9 == 0 ? kNan : std::floor(c.scores.get(i)));
          }
        }
        // What another selection left: better and worse ranks, and rows that it did not choose.
        Array best = Array(DType::kF32, {cache.kv_heads(), cache.longest() + 1}, 1);
        for (int64_t i = 0; i < best.size(); ++i) {
          best.set(i, random() % 3 == 0 ? kNan : -static_cast<double>(random() % 200));
        }
        const bool accumulate = variant / 2 % 2 == 1;
        SCOPED_TRACE("percent " + std::to_string(percent) + " variant " + std::to_string(variant) + " heads " +
                     std::to_string(lengths.size()));
        expect_ranks(c, best, accumulate, run_rank(device(), c, best, accumulate));
      }
    }
  }
}

struct SelectedRows {
  Array kept, counts;
};

SelectedRows run_select(Device& device, CacheCase cache, const Array& scores, int32_t budget, SelectLevel level,
                        int32_t protect_last) {
  SelectedRows out{Array(DType::kI32, {cache.kv_heads(), cache.longest() + 1}),
                   Array(DType::kI32, {cache.kv_heads()})};
  Placement p(device);
  const PlacedCache placed = place(p, cache, CacheUse::kRead);
  SelectArgs args;
  args.view = placed.views;
  args.scores = p.in(scores);
  args.kv_heads = cache.kv_heads();
  args.budget = budget;
  args.level = level;
  args.protect_last = protect_last;
  args.only_scored = true;
  args.kept = p.out(out.kept);
  args.kept_count = p.out(out.counts);
  EXPECT_OK(
      run(device.backend(), device.stream(), args, p.workspace(device.backend().ops().select_workspace(args))));
  p.finish();
  return out;
}

// The best of the rows that have a score, however much room there is; protected rows stay all the same.
TEST_P(SharedCacheTest, OnlyScoredRowsAreSelected) {
  struct Row {
    double score;
    int32_t head, row;
  };
  for (int variant = 0; variant < 12; ++variant) {
    const CacheCase cache(random, {DType::kF32, 2, {{90, 0, 33, 5000}}, 0});
    const int32_t heads = cache.kv_heads();
    Array scores = Array::normal(random, DType::kF32, {heads, cache.longest()}, 1);
    for (int64_t i = 0; i < scores.size(); ++i) {
      scores.set(i, random() % 4 != 0 ? kNan : std::floor(scores.get(i) * 9));
    }
    const SelectLevel level = variant % 2 == 0 ? SelectLevel::kPair : SelectLevel::kHead;
    const int32_t budget = std::vector<int32_t>{9, 400, 100000}[static_cast<size_t>(variant / 4)];
    const int32_t protect_last = variant / 2 % 2 * 5;
    const SelectedRows got = run_select(device(), cache, scores, budget, level, protect_last);
    std::vector<std::vector<int32_t>> expected(static_cast<size_t>(heads));
    const auto keep = [&](int32_t first, int32_t last, int64_t places) {
      std::vector<Row> rows;
      for (int32_t h = first; h < last; ++h) {
        const int32_t length = cache.length(0, h);
        for (int32_t r = 0; r < length; ++r) {
          if (r >= length - protect_last) {
            expected[static_cast<size_t>(h)].push_back(r);
            --places;
          } else if (!std::isnan(scores.at({h, r}))) {
            rows.push_back({scores.at({h, r}), h, r});
          }
        }
      }
      std::stable_sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) { return a.score > b.score; });
      for (size_t i = 0; i < rows.size() && static_cast<int64_t>(i) < places; ++i) {
        expected[static_cast<size_t>(rows[i].head)].push_back(rows[i].row);
      }
    };
    if (level == SelectLevel::kPair) {
      keep(0, heads, int64_t{budget} * heads);
    } else {
      for (int32_t h = 0; h < heads; ++h) keep(h, h + 1, budget);
    }
    SCOPED_TRACE("variant " + std::to_string(variant));
    for (int32_t h = 0; h < heads; ++h) {
      auto& rows = expected[static_cast<size_t>(h)];
      std::sort(rows.begin(), rows.end());
      std::vector<int32_t> kept;
      for (int64_t i = 0; i < static_cast<int64_t>(got.counts.get(h)); ++i) {
        kept.push_back(static_cast<int32_t>(got.kept.at({h, i})));
      }
      ASSERT_EQ(kept, rows) << "head " << h;
    }
  }
}

Status run_copy(Device& device, CacheCase& cache, const Chosen& chosen) {
  Placement p(device);
  const PlacedCache placed = place(p, cache, CacheUse::kWrite);
  const CopyRowsArgs args{placed.pages,      placed.views,        placed.views + 1,
                          p.in(chosen.kept), p.in(chosen.counts), cache.kv_heads()};
  const Status status = run(device.backend(), device.stream(), args);
  const Status synchronized = device.stream().synchronize();
  p.finish();
  return status.ok() ? synchronized : status;
}

TEST_P(SharedCacheTest, CopiesChosenRowsBehindThoseOfAnotherSequence) {
  std::vector<int32_t> many;
  for (int i = 0; i < 70; ++i) many.push_back(static_cast<int32_t>(random() % 40));
  struct Shape {
    DType type;
    int32_t dim;
    std::vector<std::vector<int32_t>> lengths;
  };
  std::vector<Shape> shapes = {{DType::kBf16, 16, {{2100}, {31}}},
                               {DType::kF32, 2, {many, std::vector<int32_t>(70, 3)}}};
  for (DType type : {DType::kF32, DType::kBf16, DType::kF16}) {
    for (int32_t dim : {2, 24, 128}) shapes.push_back({type, dim, {{70, 33, 0, 1}, {0, 0, 5, 16}}});
  }
  for (const auto& [type, dim, lengths] : shapes) {
    for (uint64_t percent : {0, 40, 100}) {
      CacheCase cache(random, {type, dim, lengths, 170});
      const CacheCase before = cache;
      const Chosen chosen = choose(random, cache, 0, percent);
      ASSERT_TRUE(run_copy(device(), cache, chosen).ok());
      std::vector<int32_t> stack = before.stack(1);
      for (int32_t h = 0; h < cache.kv_heads(); ++h) {
        const int32_t held = before.length(1, h);
        const auto count = static_cast<int32_t>(chosen.counts.get(h));
        ASSERT_EQ(cache.length(0, h), before.length(0, h));
        ASSERT_EQ(cache.length(1, h), held + count);
        for (int32_t r = 0; r < held + count; ++r) {
          const int64_t from = r < held ? 1 : 0;
          const int32_t row = r < held ? r : static_cast<int32_t>(chosen.kept.at({h, int64_t{r} - held}));
          ASSERT_EQ(cache.key(1, h, r), before.key(from, h, row));
          ASSERT_EQ(cache.value(1, h, r), before.value(from, h, row));
          ASSERT_EQ(cache.position(1, h, r), before.position(from, h, row));
        }
        // Pages come off the stack head by head.
        for (int32_t p = (held + 15) / 16; p < (held + count + 15) / 16; ++p) {
          ASSERT_EQ(static_cast<int32_t>(cache.tables[1].at({h, p})), stack.back());
          stack.pop_back();
        }
      }
      EXPECT_EQ(cache.stack(1), stack);
      EXPECT_EQ(cache.counts[1].get(1), static_cast<double>(stack.size()));
      EXPECT_EQ(cache.stack(0), before.stack(0));
    }
  }
}

TEST_P(SharedCacheTest, WithoutEnoughPagesNothingIsCopied) {
  CacheCase cache(random, {DType::kF32, 16, {{70, 33}, {1, 0}}, 5});
  const CacheCase before = cache;
  const Chosen chosen = choose(random, cache, 0, 100);  // 4 pages more, and 3
  const Status status = run_copy(device(), cache, chosen);
  EXPECT_EQ(status.code(), Code::kInternal);
  EXPECT_NE(status.message().find("copy_rows: page reservation exhausted: the target needs 7 pages and has 5"),
            std::string::npos)
      << status.message();
  expect_same(cache, before);
}

}  // namespace
}  // namespace longhaul::testing
