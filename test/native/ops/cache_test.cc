// append, truncate and compact: rows, page tables and stacks, exactly.
#include <algorithm>
#include <cmath>

#include "ops/cache_case.h"
#include "ops/tolerance.h"

namespace longhaul::testing {
namespace {

class CacheTest : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, CacheTest, ::testing::ValuesIn(Device::all()), DeviceName());

class CacheAgainstReference : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, CacheAgainstReference, ::testing::ValuesIn(Device::tested()), DeviceName());

constexpr DType kCacheTypes[] = {DType::kF32, DType::kBf16, DType::kF16};

struct AppendCase {
  CacheCase cache;
  Array k, v, positions, cos, sin;
};

AppendCase append_case(Random& random, const CacheShape& shape, std::vector<int32_t> counts, DType input,
                       bool rotate) {
  AppendCase c{CacheCase(random, shape), {}, {}, {}, {}, {}};
  int32_t rows = 2;  // rows in front that belong to nobody
  for (int32_t count : counts) {
    c.cache.row_begin.push_back(rows);
    rows += count;
  }
  c.cache.row_count = counts;
  const int64_t heads = c.cache.kv_heads();
  c.k = Array::normal(random, input, {rows, heads, shape.dim}, 4);
  c.v = Array::normal(random, input, {rows, heads, shape.dim}, 4);
  std::vector<int32_t> positions;
  for (int32_t i = 0; i < rows; ++i) positions.push_back(1000 + 3 * i);
  c.positions = Array::integers(positions);
  if (rotate) {
    c.cos = Array(DType::kF32, {rows, shape.dim / 2});
    c.sin = c.cos;
    for (int64_t i = 0; i < c.cos.size(); ++i) {
      const double angle = 0.37 * static_cast<double>(i);
      c.cos.set(i, std::cos(angle));
      c.sin.set(i, std::sin(angle));
    }
  }
  return c;
}

Status run_append(Device& device, AppendCase& c) {
  Placement p(device);
  const PlacedCache placed = place(p, c.cache, CacheUse::kWrite);
  AppendArgs args{placed.pages, placed.views,      c.cache.sequences(), p.in(c.k),
                  p.in(c.v),    p.in(c.positions), p.in(c.cos),         p.in(c.sin)};
  Status status = run(device.backend(), device.stream(), args);
  if (status.ok()) status = device.stream().synchronize();
  p.finish();
  return status;
}

TEST_P(CacheTest, AppendWritesBehindTheRowsHeld) {
  AppendCase c = append_case(random, {DType::kF32, 16, {{0, 15}, {17, 16}}, 6}, {3, 18}, DType::kF32, false);
  const CacheCase before = c.cache;
  ASSERT_TRUE(run_append(device(), c).ok());
  for (int64_t s = 0; s < 2; ++s) {
    for (int32_t h = 0; h < 2; ++h) {
      const int32_t held = before.length(s, h);
      const int32_t count = before.row_count[static_cast<size_t>(s)];
      ASSERT_EQ(c.cache.length(s, h), held + count);
      for (int32_t r = 0; r < held; ++r) ASSERT_EQ(c.cache.key(s, h, r), before.key(s, h, r));
      for (int32_t i = 0; i < count; ++i) {
        const int64_t from = before.row_begin[static_cast<size_t>(s)] + i;
        ASSERT_EQ(c.cache.position(s, h, held + i), 1000 + 3 * from);
        for (int64_t d = 0; d < 16; ++d) {
          ASSERT_EQ(c.cache.key(s, h, held + i)[static_cast<size_t>(d)], c.k.at({from, h, d}));
          ASSERT_EQ(c.cache.value(s, h, held + i)[static_cast<size_t>(d)], c.v.at({from, h, d}));
        }
      }
    }
  }
}

TEST_P(CacheTest, AppendRotatesKeysOnly) {
  AppendCase c = append_case(random, {DType::kF32, 8, {{3}}, 1}, {2}, DType::kF32, true);
  ASSERT_TRUE(run_append(device(), c).ok());
  for (int32_t i = 0; i < 2; ++i) {
    const int64_t from = c.cache.row_begin[0] + i;
    const std::vector<double> key = c.cache.key(0, 0, 3 + i);
    const std::vector<double> value = c.cache.value(0, 0, 3 + i);
    for (int64_t d = 0; d < 4; ++d) {
      const double cos = c.cos.at({from, d});
      const double sin = c.sin.at({from, d});
      const double low = c.k.at({from, 0, d});
      const double high = c.k.at({from, 0, d + 4});
      EXPECT_NEAR(key[static_cast<size_t>(d)], low * cos - high * sin, 1e-6);
      EXPECT_NEAR(key[static_cast<size_t>(d + 4)], high * cos + low * sin, 1e-6);
      EXPECT_EQ(value[static_cast<size_t>(d)], c.v.at({from, 0, d}));
    }
  }
}

TEST_P(CacheTest, AppendTakesPagesFromTheTopHeadByHead) {
  // Head 0 needs one page, head 1 two: three of the five come off.
  AppendCase c = append_case(random, {DType::kF32, 8, {{16, 1}}, 5}, {33}, DType::kF32, false);
  const std::vector<int32_t> stack = c.cache.stack(0);
  c.cache.counts[0] = Array::integers({5, 4});  // it was lower once
  ASSERT_TRUE(run_append(device(), c).ok());
  const Array& table = c.cache.tables[0];
  EXPECT_EQ(table.at({0, 1}), stack[4]);
  EXPECT_EQ(table.at({0, 2}), stack[3]);
  EXPECT_EQ(table.at({0, 3}), stack[2]);
  EXPECT_EQ(table.at({1, 1}), stack[1]);
  EXPECT_EQ(table.at({1, 2}), stack[0]);
  EXPECT_EQ(c.cache.counts[0].get(0), 0);
  EXPECT_EQ(c.cache.counts[0].get(1), 0);
}

TEST_P(CacheTest, AppendKeepsTheLowestMark) {
  AppendCase c = append_case(random, {DType::kF32, 8, {{0, 0}}, 6}, {1}, DType::kF32, false);
  c.cache.counts[0] = Array::integers({6, 3});
  ASSERT_TRUE(run_append(device(), c).ok());
  EXPECT_EQ(c.cache.counts[0].get(0), 4);
  EXPECT_EQ(c.cache.counts[0].get(1), 3);
}

TEST_P(CacheTest, AppendWithoutPagesFailsAndChangesNothing) {
  AppendCase c = append_case(random, {DType::kF32, 8, {{16, 16}}, 1}, {1}, DType::kF32, false);
  const CacheCase before = c.cache;
  const Status status = run_append(device(), c);
  EXPECT_EQ(status.code(), Code::kInternal);
  EXPECT_NE(status.message().find("page reservation exhausted"), std::string::npos) << status.message();
  expect_same(c.cache, before);
}

TEST_P(CacheTest, AFailedAppendIsReportedOnceAndNamesTheSequence) {
  AppendCase c =
      append_case(random, {DType::kF32, 8, {{15, 0}, {16, 16}, {5, 5}}, 1}, {1, 17, 1}, DType::kF32, false);
  c.cache.counts[0] = Array::integers({1, 1});
  const Status status = run_append(device(), c);
  EXPECT_NE(status.message().find("sequence 1 needs 4 pages and has 1"), std::string::npos) << status.message();
  EXPECT_EQ(c.cache.length(0, 0), 16);
  EXPECT_EQ(c.cache.length(1, 0), 16);
  EXPECT_OK(device().stream().synchronize());
}

TEST_P(CacheTest, AppendBehindAFullPageTableFails) {
  AppendCase c = append_case(random, {DType::kF32, 8, {{16}}, 4}, {33}, DType::kF32, false);
  c.cache.tables[0] = Array::integers({static_cast<int32_t>(c.cache.tables[0].at({0, 0})), 0, 0});
  c.cache.tables[0].shape = {1, 3};
  const CacheCase before = c.cache;
  const Status status = run_append(device(), c);
  EXPECT_EQ(status.code(), Code::kInternal);
  EXPECT_NE(status.message().find("page table of sequence 0 is full"), std::string::npos) << status.message();
  expect_same(c.cache, before);
}

// As many heads as no warp has lanes.
std::vector<int32_t> many_heads(Random& random) {
  std::vector<int32_t> lengths;
  for (int32_t h = 0; h < 37; ++h) lengths.push_back(static_cast<int32_t>(random() % 70));
  return lengths;
}

TEST_P(CacheAgainstReference, ManyHeadsMatch) {
  const CacheShape shape{DType::kBf16, 8, {many_heads(random)}, 37 * 3};
  for (int32_t count : {1, 40}) {
    AppendCase actual = append_case(random, shape, {count}, DType::kF32, false);
    AppendCase expected = actual;
    ASSERT_TRUE(run_append(device(), actual).ok());
    ASSERT_TRUE(run_append(reference(), expected).ok());
    expect_same(actual.cache, expected.cache);
  }
}

TEST_P(CacheAgainstReference, AppendMatches) {
  const std::vector<std::vector<int32_t>> lengths[] = {
      {{0}}, {{5, 31}, {0, 0}, {16, 48}}, {{1, 2, 3}, {47, 15, 16}}};
  const std::vector<int32_t> counts[] = {{70}, {1, 33, 16}, {2, 1}};
  for (DType type : kCacheTypes) {
    for (DType input : {DType::kF32, DType::kBf16}) {
      for (int32_t dim : {8, 24, 64, 80, 128, 256}) {
        for (int i = 0; i < 3; ++i) {
          for (bool rotate : {false, true}) {
            SCOPED_TRACE(std::string(name_of(input)) + " into " + name_of(type) + " dim " +
                         std::to_string(dim) + " shape " + std::to_string(i));
            AppendCase actual = append_case(random, {type, dim, lengths[i], 20}, counts[i], input, rotate);
            AppendCase expected = actual;
            ASSERT_TRUE(run_append(device(), actual).ok());
            ASSERT_TRUE(run_append(reference(), expected).ok());
            if (rotate) {
              // Rotated in f32 or double: the keys may differ by a rounding, the rest may not.
              expect_close(actual.cache.k, expected.cache.k, Bound{8, 2});
              actual.cache.k = expected.cache.k;
            }
            expect_same(actual.cache, expected.cache);
          }
        }
      }
    }
  }
}

Status run_truncate(Device& device, CacheCase& cache, int32_t drop) {
  Placement p(device);
  const PlacedCache placed = place(p, cache, CacheUse::kWrite);
  Status status = run(device.backend(), device.stream(),
                      TruncateArgs{placed.views, cache.sequences(), cache.kv_heads(), drop});
  p.finish();
  return status;
}

TEST_P(CacheTest, TruncateGivesPagesBackInOrder) {
  CacheCase cache(random, {DType::kF32, 8, {{50, 17}}, 2});
  const CacheCase before = cache;
  ASSERT_TRUE(run_truncate(device(), cache, 18).ok());
  EXPECT_EQ(cache.length(0, 0), 32);
  EXPECT_EQ(cache.length(0, 1), 0);  // only 17 to remove
  std::vector<int32_t> expected = before.stack(0);
  for (const auto& [head, page] : {std::pair{0, 2}, {0, 3}, {1, 0}, {1, 1}}) {
    expected.push_back(static_cast<int32_t>(before.tables[0].at({head, page})));
  }
  EXPECT_EQ(cache.stack(0), expected);
  EXPECT_EQ(cache.counts[0].get(1), before.counts[0].get(1));
  for (int32_t r = 0; r < 32; ++r) ASSERT_EQ(cache.key(0, 0, r), before.key(0, 0, r));
}

TEST_P(CacheAgainstReference, TruncateMatches) {
  for (int32_t drop : {0, 1, 15, 16, 17, 40, 1000}) {
    CacheCase actual(random, {DType::kBf16, 16, {{50, 17, 0}, {64, 1, 33}}, 3});
    CacheCase expected = actual;
    ASSERT_TRUE(run_truncate(device(), actual, drop).ok());
    ASSERT_TRUE(run_truncate(reference(), expected, drop).ok());
    expect_same(actual, expected);
  }
}

struct CompactCase {
  CacheCase cache;
  Array kept, kept_count;
};

// Keeps each row with a chance of `percent` in 100.
CompactCase compact_case(Random& random, const CacheShape& shape, uint64_t percent) {
  CompactCase c{CacheCase(random, shape), {}, {}};
  const int32_t heads = c.cache.kv_heads();
  const int64_t capacity = c.cache.longest() + 3;
  c.kept = Array(DType::kI32, {heads, capacity}, 2);
  std::vector<int32_t> counts;
  for (int32_t h = 0; h < heads; ++h) {
    int32_t count = 0;
    for (int32_t r = 0; r < c.cache.length(0, h); ++r) {
      if (random() % 100 < percent) c.kept.set(h * capacity + count++, r);
    }
    counts.push_back(count);
  }
  c.kept_count = Array::integers(counts);
  return c;
}

Status run_compact(Device& device, CompactCase& c) {
  Placement p(device);
  const PlacedCache placed = place(p, c.cache, CacheUse::kWrite);
  CompactArgs args{placed.pages, placed.views, p.in(c.kept), p.in(c.kept_count), c.cache.kv_heads()};
  Status status = run(device.backend(), device.stream(), args);
  p.finish();
  return status;
}

TEST_P(CacheTest, CompactMovesKeptRowsToTheFront) {
  CompactCase c = compact_case(random, {DType::kF16, 16, {{70, 33, 0, 1}}, 2}, 40);
  const CompactCase before = c;
  ASSERT_TRUE(run_compact(device(), c).ok());
  std::vector<int32_t> stack = before.cache.stack(0);
  for (int32_t h = 0; h < 4; ++h) {
    const auto count = static_cast<int32_t>(before.kept_count.get(h));
    ASSERT_EQ(c.cache.length(0, h), count);
    for (int32_t i = 0; i < count; ++i) {
      const auto from = static_cast<int32_t>(before.kept.at({h, i}));
      ASSERT_EQ(c.cache.key(0, h, i), before.cache.key(0, h, from));
      ASSERT_EQ(c.cache.value(0, h, i), before.cache.value(0, h, from));
      ASSERT_EQ(c.cache.position(0, h, i), before.cache.position(0, h, from));
    }
    for (int32_t p = (count + 15) / 16; p < (before.cache.length(0, h) + 15) / 16; ++p) {
      stack.push_back(static_cast<int32_t>(before.cache.tables[0].at({h, p})));
    }
  }
  EXPECT_EQ(c.cache.stack(0), stack);
  EXPECT_EQ(c.cache.counts[0].get(1), before.cache.counts[0].get(1));
}

// Long heads are moved a run of rows after the other, and no source may be lost to the run before.
TEST_P(CacheAgainstReference, LongHeadsAreCompactedInOrder) {
  for (uint64_t percent : {3, 50, 97}) {
    CompactCase actual = compact_case(random, {DType::kBf16, 64, {{1900, 700}}, 1}, percent);
    CompactCase expected = actual;
    ASSERT_TRUE(run_compact(device(), actual).ok());
    ASSERT_TRUE(run_compact(reference(), expected).ok());
    expect_same(actual.cache, expected.cache);
  }
}

TEST_P(CacheAgainstReference, ManyHeadsAreCompactedAndTruncated) {
  CompactCase actual = compact_case(random, {DType::kF16, 2, {many_heads(random)}, 2}, 40);
  CompactCase expected = actual;
  ASSERT_TRUE(run_compact(device(), actual).ok());
  ASSERT_TRUE(run_compact(reference(), expected).ok());
  expect_same(actual.cache, expected.cache);
  ASSERT_TRUE(run_truncate(device(), actual.cache, 9).ok());
  ASSERT_TRUE(run_truncate(reference(), expected.cache, 9).ok());
  expect_same(actual.cache, expected.cache);
}

TEST_P(CacheAgainstReference, CompactMatches) {
  for (DType type : kCacheTypes) {
    for (int32_t dim : {8, 24, 80, 128}) {
      for (uint64_t percent : {0, 10, 60, 95, 100}) {
        CompactCase actual = compact_case(random, {type, dim, {{130, 16, 0, 65}}, 1}, percent);
        CompactCase expected = actual;
        ASSERT_TRUE(run_compact(device(), actual).ok());
        ASSERT_TRUE(run_compact(reference(), expected).ok());
        expect_same(actual.cache, expected.cache);
      }
    }
  }
}

}  // namespace
}  // namespace longhaul::testing
