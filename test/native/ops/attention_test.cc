// attention and merge_states: against a softmax over gathered rows, against the reference, and row by row.
#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

#include "ops/cache_case.h"
#include "ops/tolerance.h"

namespace longhaul::testing {
namespace {

class AttentionTest : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, AttentionTest, ::testing::ValuesIn(Device::all()), DeviceName());

class AttentionAgainstReference : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, AttentionAgainstReference, ::testing::ValuesIn(Device::tested()),
                         DeviceName());

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct AttentionCase {
  CacheCase cache;
  Array q, out, lse;
  float scale = 0;
  RowRole role = RowRole::kBlock;
};

// `counts` rows of each sequence; the cache already holds them.
AttentionCase attention_case(Random& random, const CacheShape& shape, std::vector<int32_t> counts,
                             int32_t group, DType activation) {
  AttentionCase c{CacheCase(random, shape), {}, {}, {}, 0};
  int32_t rows = 0;
  for (int32_t count : counts) {
    c.cache.row_begin.push_back(rows);
    rows += count;
  }
  c.cache.row_count = counts;
  const int64_t heads = c.cache.kv_heads() * group;
  c.q = Array::normal(random, activation, {rows, heads, shape.dim}, 8);
  c.out = Array(activation, {rows, heads, shape.dim}, 4);
  c.lse = Array(DType::kF32, {rows, heads});
  c.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(shape.dim)));
  return c;
}

AttentionCase run_attention(Device& device, AttentionCase c) {
  Placement p(device);
  const PlacedCache placed = place(p, c.cache, CacheUse::kRead);
  AttentionArgs args;
  args.pages = placed.pages;
  args.views = placed.views;
  args.sequences = c.cache.sequences();
  args.q = p.in(c.q);
  args.out = p.out(c.out);
  args.lse = p.out(c.lse);
  args.kv_heads = c.cache.kv_heads();
  args.scale = c.scale;
  args.max_length = std::max(c.cache.longest(), 1);
  args.role = c.role;
  EXPECT_OK(run(device.backend(), device.stream(), args,
                p.workspace(device.backend().ops().attention_workspace(args))));
  p.finish();
  return c;
}

// A plain bf16 implementation rounds the probabilities before it multiplies them with the values.
void expect_attention(const AttentionCase& actual, const AttentionCase& expected) {
  const bool bf16 = expected.q.dtype == DType::kBf16;
  const double steps = sum_steps(expected.q.shape[2]) + sum_steps(expected.cache.longest());
  expect_close(actual.out, expected.out, bf16 ? Bound{1, 1, DType::kBf16} : Bound{4, steps});
  expect_close(actual.lse, expected.lse, Bound{8, steps});
}

// Query i of one sequence and head, out of the cache's rows.
struct Expected {
  std::vector<double> out;
  double lse;
};
Expected softmax_over_rows(const AttentionCase& c, int64_t s, int32_t head, int32_t i) {
  const int32_t group = static_cast<int32_t>(c.q.shape[1]) / c.cache.kv_heads();
  const int32_t kv = head / group;
  const auto at = static_cast<size_t>(s);
  const int32_t visible = c.cache.length(s, kv) - c.cache.row_count[at] + i + 1;
  Expected e{std::vector<double>(static_cast<size_t>(c.cache.dim()), 0), 0};
  double total = 0;
  for (int32_t r = 0; r < visible; ++r) {
    const std::vector<double> key = c.cache.key(s, kv, r);
    const std::vector<double> value = c.cache.value(s, kv, r);
    double score = 0;
    for (size_t d = 0; d < key.size(); ++d) {
      score += key[d] * c.q.at({c.cache.row_begin[at] + i, head, static_cast<int64_t>(d)});
    }
    const double weight = std::exp(score * static_cast<double>(c.scale));
    total += weight;
    for (size_t d = 0; d < value.size(); ++d) e.out[d] += weight * value[d];
  }
  for (double& x : e.out) x /= total;
  e.lse = std::log(total);
  return e;
}

TEST_P(AttentionTest, IsTheSoftmaxOverVisibleRows) {
  const AttentionCase c =
      attention_case(random, {DType::kF32, 16, {{40, 9}, {3, 3}, {17, 33}}, 0}, {5, 3, 1}, 2, DType::kF32);
  AttentionCase expected = c;
  for (int64_t s = 0; s < 3; ++s) {
    const auto at = static_cast<size_t>(s);
    for (int32_t i = 0; i < c.cache.row_count[at]; ++i) {
      for (int32_t h = 0; h < 4; ++h) {
        const Expected e = softmax_over_rows(c, s, h, i);
        const int64_t row = (c.cache.row_begin[at] + i) * 4 + h;
        for (int64_t d = 0; d < 16; ++d) expected.out.set(row * 16 + d, e.out[static_cast<size_t>(d)]);
        expected.lse.set(row, e.lse);
      }
    }
  }
  expect_attention(run_attention(device(), c), expected);
}

struct Heads {
  int32_t kv_heads, group;
};
constexpr Heads kHeads[] = {{1, 1}, {2, 2}, {1, 8}, {3, 3}};

// Lengths for each head that hold at least `count` rows; ragged, as eviction leaves them.
std::vector<int32_t> ragged(Random& random, int32_t kv_heads, int32_t count, int32_t most) {
  std::vector<int32_t> lengths;
  for (int32_t h = 0; h < kv_heads; ++h) {
    lengths.push_back(count + static_cast<int32_t>(random() % static_cast<uint64_t>(most)));
  }
  lengths[0] = count;  // nothing was held before the step
  return lengths;
}

TEST_P(AttentionAgainstReference, AttentionMatches) {
  const std::vector<int32_t> steps[] = {{1}, {1, 1, 1, 1, 1}, {70}, {1, 17, 1, 33}, {16, 1}};
  for (DType kv : {DType::kF32, DType::kBf16, DType::kF16}) {
    for (DType activation : {DType::kF32, DType::kBf16}) {
      for (int32_t dim : {8, 16, 24, 64, 80, 128, 256}) {
        for (const Heads& heads : kHeads) {
          const std::vector<int32_t>& counts = steps[random() % std::size(steps)];
          SCOPED_TRACE(std::string(name_of(activation)) + " on " + name_of(kv) + " dim " + std::to_string(dim) +
                       " heads " + std::to_string(heads.kv_heads) + "x" + std::to_string(heads.group) +
                       " rows " + std::to_string(counts[0]) + "x" + std::to_string(counts.size()));
          CacheShape shape{kv, dim, {}, 0};
          for (int32_t count : counts) shape.lengths.push_back(ragged(random, heads.kv_heads, count, 90));
          const AttentionCase c = attention_case(random, shape, counts, heads.group, activation);
          expect_attention(run_attention(device(), c), run_attention(reference(), c));
        }
      }
    }
  }
}

TEST_P(AttentionAgainstReference, LongCachesMatch) {
  for (DType type : {DType::kF32, DType::kBf16}) {
    const AttentionCase c = attention_case(random, {type, 64, {{1500, 700}, {4100, 16}}, 0}, {1, 2}, 3, type);
    expect_attention(run_attention(device(), c), run_attention(reference(), c));
  }
}

// Every role on every width, with groups that do not fill a tile and rows that are not aligned.
TEST_P(AttentionAgainstReference, RolesMatch) {
  const std::vector<int32_t> steps[] = {{1}, {1, 1, 1}, {1, 4}, {6}};
  for (RowRole role : {RowRole::kBlock, RowRole::kDecode}) {
    for (auto [activation, kv] : {std::pair{DType::kBf16, DType::kBf16},
                                  {DType::kBf16, DType::kF16},
                                  {DType::kF32, DType::kF32},
                                  {DType::kF32, DType::kF16},
                                  {DType::kF32, DType::kBf16}}) {
      for (int32_t dim : {8, 10, 16, 48, 64, 80, 96, 128, 196, 256}) {
        const int32_t group = std::vector<int32_t>{1, 3, 7, 8}[random() % 4];
        const std::vector<int32_t>& counts = steps[random() % std::size(steps)];
        SCOPED_TRACE(std::string(role == RowRole::kBlock ? "block " : "decode ") + name_of(activation) +
                     " on " + name_of(kv) + " dim " + std::to_string(dim) + " group " + std::to_string(group) +
                     " rows " + std::to_string(counts[0]) + "x" + std::to_string(counts.size()));
        CacheShape shape{kv, dim, {}, 0};
        for (int32_t count : counts) shape.lengths.push_back(ragged(random, 2, count, 150));
        AttentionCase c = attention_case(random, shape, counts, group, activation);
        c.role = role;
        if (random() % 2 == 0) {
          c.q = Array::normal(random, activation, c.q.shape, 3);
          c.out = Array(activation, c.out.shape, 1);
        }
        expect_attention(run_attention(device(), c), run_attention(reference(), c));
      }
    }
  }
}

// Heads of one step that need no split, several, and one more than their neighbour.
TEST_P(AttentionAgainstReference, LongDecodesMatch) {
  for (auto [activation, kv, dim] : {std::tuple{DType::kBf16, DType::kBf16, 128},
                                     {DType::kBf16, DType::kF16, 64},
                                     {DType::kF32, DType::kF32, 64},
                                     {DType::kF32, DType::kF16, 80},
                                     {DType::kBf16, DType::kBf16, 256}}) {
    AttentionCase c =
        attention_case(random, {kv, dim, {{1500, 256}, {3, 257}, {40, 511}}, 0}, {1, 2, 1}, 3, activation);
    c.role = RowRole::kDecode;
    SCOPED_TRACE(std::string(name_of(activation)) + " on " + name_of(kv));
    expect_attention(run_attention(device(), c), run_attention(reference(), c));
  }
}

// The rows of a page behind the last may have been anybody's.
TEST_P(AttentionAgainstReference, RowsNobodyHoldsAreNotSeen) {
  for (DType type : {DType::kF32, DType::kBf16}) {
    for (RowRole role : {RowRole::kBlock, RowRole::kDecode}) {
      AttentionCase c = attention_case(random, {type, 64, {{5, 130}, {60, 300}}, 0}, {2, 3}, 2, type);
      c.role = role;
      for (int64_t s = 0; s < 2; ++s) {
        for (int32_t h = 0; h < 2; ++h) {
          for (int32_t r = c.cache.length(s, h); r % kPageRows != 0; ++r) {
            for (int64_t d = 0; d < 64; ++d) {
              c.cache.k.set(c.cache.slot(s, h, r) * 64 + d, std::nan(""));
              c.cache.v.set(c.cache.slot(s, h, r) * 64 + d, std::nan(""));
            }
          }
        }
      }
      SCOPED_TRACE(std::string(name_of(type)) + (role == RowRole::kBlock ? " block" : " decode"));
      expect_attention(run_attention(device(), c), run_attention(reference(), c));
    }
  }
}

TEST_P(AttentionAgainstReference, LargeScoresDoNotOverflow) {
  AttentionCase c = attention_case(random, {DType::kF32, 16, {{40}}, 0}, {4}, 1, DType::kF32);
  c.scale = 40;  // scores of several hundred
  AttentionCase actual = run_attention(device(), c);
  AttentionCase expected = run_attention(reference(), c);
  // Errors of the scores are errors of the exponents, here many times larger than usual.
  expect_close(actual.out, expected.out, Bound{4, 8000});
  expect_close(actual.lse, expected.lse, Bound{1000, 8});
}

TEST_P(AttentionTest, ASequenceDoesNotSeeTheBatch) {
  for (auto [type, role] : {std::pair{DType::kF32, RowRole::kBlock},
                            {DType::kBf16, RowRole::kBlock},
                            {DType::kF32, RowRole::kDecode},
                            {DType::kBf16, RowRole::kDecode}}) {
    const std::vector<int32_t> counts =
        role == RowRole::kBlock ? std::vector<int32_t>{1, 37, 1, 20, 1} : std::vector<int32_t>{1, 2, 1, 3, 1};
    CacheShape shape{type, 64, {}, 0};
    for (int32_t count : counts) shape.lengths.push_back(ragged(random, 2, count, 600));
    AttentionCase all = attention_case(random, shape, counts, 4, type);
    all.role = role;
    const AttentionCase together = run_attention(device(), all);
    const int64_t row_size = 8 * 64;
    for (size_t s = 0; s < counts.size(); ++s) {
      AttentionCase one = all;
      one.cache.tables = {all.cache.tables[s]};
      one.cache.lengths = {all.cache.lengths[s]};
      one.cache.stacks = {all.cache.stacks[s]};
      one.cache.counts = {all.cache.counts[s]};
      one.cache.row_begin = {0};
      one.cache.row_count = {counts[s]};
      one.q = Array(type, {counts[s], 8, 64});
      one.out = Array(type, {counts[s], 8, 64});
      one.lse = Array(DType::kF32, {counts[s], 8});
      const int64_t first = all.cache.row_begin[s];
      for (int64_t i = 0; i < one.q.size(); ++i) one.q.set(i, all.q.get(first * row_size + i));
      const AttentionCase alone = run_attention(device(), one);
      for (int64_t i = 0; i < alone.out.size(); ++i) {
        ASSERT_EQ(alone.out.get(i), together.out.get(first * row_size + i)) << "sequence " << s;
      }
      for (int64_t i = 0; i < alone.lse.size(); ++i)
        ASSERT_EQ(alone.lse.get(i), together.lse.get(first * 8 + i));
    }
  }
}

TEST_P(AttentionTest, BitsDependOnNeitherRunNorThreads) {
  const AttentionCase c =
      attention_case(random, {DType::kBf16, 80, {{900, 33}, {70, 71}}, 0}, {1, 40}, 3, DType::kBf16);
  const AttentionCase once = run_attention(device(), c);
  const auto single = Device::open(GetParam(), 1);
  for (Device* other : {&device(), single.get()}) {
    const AttentionCase again = run_attention(*other, c);
    expect_same(again.out, once.out);
    expect_same(again.lse, once.lse);
  }
}

struct MergeCase {
  Array parts, parts_lse, out, lse;
};

MergeCase run_merge(Device& device, MergeCase c) {
  Placement p(device);
  EXPECT_OK(run(device.backend(), device.stream(),
                MergeStatesArgs{p.in(c.parts), p.in(c.parts_lse), p.out(c.out), p.out(c.lse)}));
  p.finish();
  return c;
}

// Splits the rows of a cache in two, attends to each half and merges: the same as attending to the whole.
TEST_P(AttentionTest, MergedHalvesAreTheWhole) {
  const AttentionCase whole = attention_case(random, {DType::kF32, 24, {{50, 64}}, 0}, {1}, 2, DType::kF32);
  MergeCase merge;
  merge.parts = Array(DType::kF32, {2, 1, 4, 24});
  merge.parts_lse = Array(DType::kF32, {2, 1, 4});
  merge.out = Array(DType::kF32, {1, 4, 24});
  merge.lse = Array(DType::kF32, {1, 4});
  for (int64_t half = 0; half < 2; ++half) {
    AttentionCase part = whole;
    Array& table = part.cache.tables[0];
    const int64_t max_pages = table.shape[1];
    for (int64_t h = 0; h < 2; ++h) {
      part.cache.lengths[0].set(h, half == 0 ? 32 : whole.cache.length(0, static_cast<int32_t>(h)) - 32);
      for (int64_t p = 2; half == 1 && p < max_pages; ++p)
        table.set(h * max_pages + p - 2, table.get(h * max_pages + p));
    }
    const AttentionCase done = run_attention(reference(), part);
    for (int64_t i = 0; i < 96; ++i) merge.parts.set(half * 96 + i, done.out.get(i));
    for (int64_t i = 0; i < 4; ++i) merge.parts_lse.set(half * 4 + i, done.lse.get(i));
  }
  const MergeCase merged = run_merge(device(), merge);
  const AttentionCase expected = run_attention(reference(), whole);
  expect_close(merged.out, expected.out, Bound{4, 8});
  expect_close(merged.lse, expected.lse, Bound{8, 4});
}

TEST_P(AttentionAgainstReference, MergeMatches) {
  for (DType out : {DType::kF32, DType::kBf16}) {
    for (int64_t splits : {1, 2, 5, 33}) {
      for (int64_t dim : {8, 24, 80, 256}) {
        MergeCase c;
        c.parts = Array::normal(random, DType::kF32, {splits, 3, 2, dim});
        c.parts_lse = Array::normal(random, DType::kF32, {splits, 3, 2});
        c.parts_lse.set(0, 95);  // exp overflows in f32
        c.out = Array(out, {3, 2, dim}, 2);
        c.lse = Array(DType::kF32, {3, 2});
        const MergeCase expected = run_merge(reference(), c);
        const MergeCase actual = run_merge(device(), c);
        expect_close(actual.out, expected.out, Bound{4, sum_steps(splits)});
        expect_close(actual.lse, expected.lse, Bound{8, sum_steps(splits)});
      }
    }
  }
}

TEST_P(AttentionTest, MergeLeavesOutPartsThatSawNothing) {
  MergeCase c;
  c.parts = Array::normal(random, DType::kF32, {2, 2, 1, 8});
  c.parts_lse = Array(DType::kF32, {2, 2, 1});
  // Row 0: only part 1 saw keys, and part 0 holds no numbers. Row 1: no part did.
  for (int64_t d = 0; d < 8; ++d) c.parts.set(d, std::nan(""));
  c.parts_lse.set(0, -kInfinity);
  c.parts_lse.set(1, -kInfinity);
  c.parts_lse.set(2, 1.5);
  c.parts_lse.set(3, -kInfinity);
  c.out = Array(DType::kF32, {2, 1, 8});
  c.lse = Array(DType::kF32, {2, 1});
  const MergeCase merged = run_merge(device(), c);
  for (int64_t d = 0; d < 8; ++d) {
    EXPECT_EQ(merged.out.at({0, 0, d}), c.parts.at({1, 0, 0, d}));
    EXPECT_EQ(merged.out.at({1, 0, d}), 0);
  }
  EXPECT_EQ(merged.lse.get(0), 1.5);
  EXPECT_EQ(merged.lse.get(1), -kInfinity);
}

}  // namespace
}  // namespace longhaul::testing
