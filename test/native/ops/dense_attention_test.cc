// dense_attention: against a softmax over the keys a query sees, against the reference, in pieces, and head by
// head.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "ops/device.h"
#include "ops/tolerance.h"

namespace longhaul::testing {
namespace {

class DenseAttentionTest : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, DenseAttentionTest, ::testing::ValuesIn(Device::all()), DeviceName());

class DenseAttentionAgainstReference : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, DenseAttentionAgainstReference, ::testing::ValuesIn(Device::tested()),
                         DeviceName());

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct DenseCase {
  Array q, k, v, out, lse, state;
  std::vector<AttentionSpan> spans;
  float scale = 0;
  bool accumulate = false;
};

struct Shape {
  int64_t rows, keys;
  int64_t kv_heads, group, dim;
  DType activation = DType::kF32;
  DType kv = DType::kF32;
};

DenseCase dense_case(Random& random, const Shape& s, std::vector<AttentionSpan> spans) {
  DenseCase c;
  c.q = Array::normal(random, s.activation, {s.rows, s.kv_heads * s.group, s.dim}, 8);
  c.k = Array::normal(random, s.kv, {s.keys, s.kv_heads, s.dim}, 8);
  c.v = Array::normal(random, s.kv, {s.keys, s.kv_heads, s.dim}, 8);
  c.out = Array::normal(random, s.activation, c.q.shape, 4);
  c.lse = Array::normal(random, DType::kF32, {s.rows, s.kv_heads * s.group});
  c.state = Array::normal(random, DType::kF32, {s.rows, s.kv_heads * s.group, 2});
  for (int64_t i = 1; i < c.state.size(); i += 2) c.state.set(i, std::fabs(c.state.get(i)) + 0.1);
  c.spans = std::move(spans);
  c.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(s.dim)));
  return c;
}

DenseCase attend(Device& device, DenseCase c) {
  Placement p(device);
  DenseAttentionArgs args;
  args.q = p.in(c.q);
  args.k = p.in(c.k);
  args.v = p.in(c.v);
  args.spans =
      static_cast<const AttentionSpan*>(p.in_bytes(c.spans.data(), c.spans.size() * sizeof(AttentionSpan)));
  args.span_count = static_cast<int32_t>(c.spans.size());
  for (const AttentionSpan& span : c.spans) {
    args.max_keys = std::max(args.max_keys, span.k_count);
    args.key_pages += (span.k_count + kPageRows - 1) / kPageRows;
  }
  args.out = p.out(c.out);
  args.lse = p.out(c.lse);
  args.state = p.out(c.state);
  args.scale = c.scale;
  args.accumulate = c.accumulate;
  EXPECT_OK(run(device.backend(), device.stream(), args,
                p.workspace(device.backend().ops().dense_attention_workspace(args))));
  p.finish();
  return c;
}

// Whatever was taken out as the largest score, the sum makes it up.
void expect_state(const DenseCase& c) {
  for (int64_t i = 0; i < c.lse.size(); ++i) {
    const double lse = (c.state.get(2 * i) + std::log2(c.state.get(2 * i + 1))) * std::numbers::ln2;
    if (c.state.get(2 * i + 1) == 0) {
      ASSERT_EQ(c.lse.get(i), -kInfinity) << i;
    } else {
      ASSERT_NEAR(c.lse.get(i), lse, 0x1p-21 * (1 + std::fabs(lse))) << i;
    }
  }
}

void expect_attention(const DenseCase& actual, const DenseCase& expected) {
  const bool bf16 = expected.q.dtype == DType::kBf16;
  const double steps = sum_steps(expected.q.shape[2]) + sum_steps(expected.k.shape[0]);
  expect_close(actual.out, expected.out, bf16 ? Bound{1, 1, DType::kBf16} : Bound{4, steps});
  expect_close(actual.lse, expected.lse, Bound{8, steps});
  expect_state(actual);
}

// A query of the first span that is aligned at the end, one of a span whose keys are all in its past, one with
// queries in front of its keys, one without keys, and rows in no span.
const std::vector<AttentionSpan> kSpans = {
    {0, 5, 0, 21, 16}, {7, 4, 21, 33, 1000}, {11, 9, 54, 6, -4}, {20, 3, 0, 0, 0}, {23, 1, 3, 40, 2}};
constexpr int64_t kRows = 26;
constexpr int64_t kKeys = 60;

TEST_P(DenseAttentionTest, IsTheSoftmaxOverTheKeysThatASpanShows) {
  const DenseCase c = dense_case(random, {kRows, kKeys, 2, 3, 16}, kSpans);
  DenseCase expected = c;
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t h = 0; h < 6; ++h) {
      std::vector<double> out(16);
      double total = 0;
      for (const AttentionSpan& span : kSpans) {
        if (row < span.q_begin || row >= span.q_begin + span.q_count) continue;
        for (int64_t j = 0; j < span.k_count && j <= span.offset + row - span.q_begin; ++j) {
          double score = 0;
          for (int64_t d = 0; d < 16; ++d) score += c.q.at({row, h, d}) * c.k.at({span.k_begin + j, h / 3, d});
          const double weight = std::exp(score * static_cast<double>(c.scale));
          total += weight;
          for (int64_t d = 0; d < 16; ++d) {
            out[static_cast<size_t>(d)] += weight * c.v.at({span.k_begin + j, h / 3, d});
          }
        }
      }
      for (int64_t d = 0; d < 16; ++d) {
        expected.out.set((row * 6 + h) * 16 + d, total > 0 ? out[static_cast<size_t>(d)] / total : 0);
      }
      expected.lse.set(row * 6 + h, std::log(total));
    }
  }
  const DenseCase actual = attend(device(), c);
  expect_attention(actual, expected);
  EXPECT_EQ(actual.lse.at({5, 0}), -kInfinity) << "a row in no span";
  EXPECT_EQ(actual.lse.at({11, 0}), -kInfinity) << "a row in front of all keys";
  EXPECT_EQ(actual.out.at({21, 1, 1}), 0) << "a span without keys";
}

TEST_P(DenseAttentionAgainstReference, TypesAndShapesMatch) {
  for (auto [activation, kv] : {std::pair{DType::kF32, DType::kF32},
                                {DType::kF32, DType::kF16},
                                {DType::kBf16, DType::kBf16},
                                {DType::kBf16, DType::kF16}}) {
    for (int64_t dim : {8, 10, 64, 80, 128, 256}) {
      for (auto [kv_heads, group] : {std::pair<int64_t, int64_t>{1, 1}, {2, 4}, {3, 7}}) {
        SCOPED_TRACE(std::string(name_of(activation)) + " on " + name_of(kv) + " dim " + std::to_string(dim) +
                     " heads " + std::to_string(kv_heads) + "x" + std::to_string(group));
        const DenseCase c = dense_case(random, {kRows, kKeys, kv_heads, group, dim, activation, kv}, kSpans);
        expect_attention(attend(device(), c), attend(reference(), c));
      }
    }
  }
}

TEST_P(DenseAttentionAgainstReference, LongSpansMatch) {
  for (DType type : {DType::kF32, DType::kBf16}) {
    const DenseCase c =
        dense_case(random, {150, 1200, 1, 2, 64, type, type}, {{0, 70, 0, 900, 700}, {70, 80, 900, 300, 220}});
    expect_attention(attend(device(), c), attend(reference(), c));
  }
}

// Keys taken in three pieces, as a ring brings them, against all at once.
TEST_P(DenseAttentionTest, PiecesAccumulateToTheWhole) {
  for (int64_t dim : {16, 80, 256}) {
    const DenseCase whole = dense_case(random, {20, 300, 2, 2, dim}, {{0, 20, 0, 300, 280}});
    DenseCase pieces = whole;
    bool first = true;
    // The state starts with keys of the middle, so that the first and the last queries see nothing in it yet.
    for (auto [begin, count] : {std::pair{290, 10}, {0, 100}, {100, 190}}) {
      pieces.spans = {{0, 20, begin, count, 280 - begin}};
      pieces.accumulate = !first;
      pieces = attend(device(), pieces);
      if (first) {
        EXPECT_EQ(pieces.lse.at({0, 0}), -kInfinity);
      }
      first = false;
    }
    const DenseCase expected = attend(reference(), whole);
    expect_close(pieces.out, expected.out, Bound{4, sum_steps(300) + 8});
    expect_close(pieces.lse, expected.lse, Bound{8, sum_steps(300) + 8});
    expect_state(pieces);
  }
}

// Scores in the hundreds, whose lse f32 holds to 1e-5 at best: pieces still are within a millionth of the
// whole.
TEST_P(DenseAttentionTest, LargeScoresLoseNothingInPieces) {
  DenseCase whole = dense_case(random, {20, 300, 1, 2, 16}, {{0, 20, 0, 300, 280}});
  for (int64_t i = 0; i < whole.q.size(); ++i) whole.q.set(i, std::round(whole.q.get(i) * 64));
  for (int64_t i = 0; i < whole.k.size(); ++i) whole.k.set(i, std::round(whole.k.get(i) * 4) / 32);
  const DenseCase expected = attend(device(), whole);
  DenseCase pieces = whole;
  for (int32_t begin = 0; begin < 300; begin += 60) {
    pieces.spans = {{0, 20, begin, 60, 280 - begin}};
    pieces.accumulate = begin > 0;
    pieces = attend(device(), pieces);
  }
  for (int64_t i = 0; i < whole.out.size(); ++i) {
    const double want = expected.out.get(i);
    ASSERT_NEAR(pieces.out.get(i), want, 1e-6 * (1 + std::fabs(want)));
  }
}

TEST_P(DenseAttentionTest, AccumulatingLeavesOtherRowsAlone) {
  DenseCase c = dense_case(random, {12, 30, 1, 2, 24}, {{4, 3, 0, 30, 100}, {9, 2, 0, 10, -20}});
  c.accumulate = true;
  const DenseCase after = attend(device(), c);
  for (int64_t row = 0; row < 12; ++row) {
    const bool touched = row >= 4 && row < 7;
    for (int64_t h = 0; h < 2; ++h) {
      EXPECT_EQ(after.lse.at({row, h}) != c.lse.at({row, h}), touched) << row;
      EXPECT_EQ(after.out.at({row, h, 5}) != c.out.at({row, h, 5}), touched) << row;
    }
  }
  DenseCase nothing = c;
  nothing.spans.clear();
  const DenseCase same = attend(device(), nothing);
  expect_same(same.out, c.out);
  expect_same(same.lse, c.lse);
  expect_same(same.state, c.state);
}

TEST_P(DenseAttentionTest, AccumulatesLikeTheReference) {
  DenseCase c = dense_case(random, {12, 30, 1, 2, 24}, {{0, 12, 0, 30, 18}});
  c.accumulate = true;
  c.state.set(7, 0);  // slot 3 saw nothing, and its output is no number
  for (int64_t d = 0; d < 24; ++d) c.out.set(3 * 24 + d, std::nan(""));
  c.state.set(8, 200);  // slot 4 weighs everything
  const DenseCase actual = attend(device(), c);
  const DenseCase expected = attend(reference(), c);
  expect_close(actual.out, expected.out, Bound{4, sum_steps(30) + 8});
  expect_close(actual.lse, expected.lse, Bound{8, sum_steps(30) + 8});
  expect_state(actual);
}

// What Ulysses rests on: a head's bits are the same whichever heads and rows are computed with it.
TEST_P(DenseAttentionTest, ARowsBitsDoNotDependOnTheOthers) {
  for (DType type : {DType::kF32, DType::kBf16}) {
    const DenseCase all = dense_case(random, {40, 330, 2, 4, 64, type, type}, {{0, 40, 0, 330, 290}});
    const DenseCase expected = attend(device(), all);
    for (int64_t first = 0; first < 8; first += 2) {  // two heads of a group at a time, and half of the rows
      DenseCase part = dense_case(random, {20, 330, 1, 2, 64, type, type}, {{0, 20, 0, 330, 310}});
      for (int64_t i = 0; i < part.q.size(); ++i) {
        const int64_t row = i / 128, head = i / 64 % 2, d = i % 64;
        part.q.set(i, all.q.at({20 + row, first + head, d}));
      }
      for (int64_t i = 0; i < part.k.size(); ++i) {
        part.k.set(i, all.k.at({i / 64, first / 4, i % 64}));
        part.v.set(i, all.v.at({i / 64, first / 4, i % 64}));
      }
      const DenseCase actual = attend(device(), part);
      for (int64_t i = 0; i < part.out.size(); ++i) {
        const int64_t row = i / 128, head = i / 64 % 2, d = i % 64;
        ASSERT_EQ(actual.out.get(i), expected.out.at({20 + row, first + head, d}));
      }
      for (int64_t i = 0; i < part.lse.size(); ++i) {
        ASSERT_EQ(actual.lse.get(i), expected.lse.at({20 + i / 2, first + i % 2}));
      }
    }
  }
}

TEST(DenseAttentionArguments, AreChecked) {
  std::vector<float> data(256);
  const AttentionSpan span{};
  const auto tensor = [&](std::initializer_list<int64_t> shape) {
    return Tensor::dense(data.data(), DType::kF32, shape);
  };
  const DenseAttentionArgs good{.q = tensor({2, 4, 8}),
                                .k = tensor({3, 2, 8}),
                                .v = tensor({3, 2, 8}),
                                .spans = &span,
                                .span_count = 1,
                                .max_keys = 3,
                                .key_pages = 1,
                                .out = tensor({2, 4, 8}),
                                .lse = tensor({2, 4}),
                                .state = tensor({2, 4, 2}),
                                .scale = 1};
  EXPECT_OK(check(good));
  const auto refused = [&](auto change) {
    DenseAttentionArgs bad = good;
    change(bad);
    return check(bad).code() == Code::kInvalidArgument;
  };
  EXPECT_TRUE(refused([&](auto& a) { a.k = a.v = tensor({3, 3, 8}); }));
  EXPECT_TRUE(refused([&](auto& a) { a.v = tensor({2, 2, 8}); }));
  EXPECT_TRUE(refused([&](auto& a) { a.spans = nullptr; }));
  EXPECT_TRUE(refused([&](auto& a) { a.lse = Tensor(); }));
  EXPECT_TRUE(refused([&](auto& a) { a.scale = 0; }));
  EXPECT_TRUE(refused([&](auto& a) { a.state = tensor({2, 4}); }));
  EXPECT_TRUE(refused([&](auto& a) {
    a.state = Tensor();
    a.accumulate = true;
  }));
  EXPECT_TRUE(refused([&](auto& a) {
    a.out.dtype = DType::kBf16;
    a.accumulate = true;
  }));
}

}  // namespace
}  // namespace longhaul::testing
