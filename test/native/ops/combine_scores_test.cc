// combine_scores: against sums written out here and against the reference.
#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/cache_case.h"
#include "ops/tolerance.h"

namespace longhaul::testing {
namespace {

class CombineScoresTest : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, CombineScoresTest, ::testing::ValuesIn(Device::all()), DeviceName());

class CombineScoresAgainstReference : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, CombineScoresAgainstReference, ::testing::ValuesIn(Device::tested()),
                         DeviceName());

struct CombineCase {
  CacheCase cache;
  Array scores, other, spans;
  int32_t ignore_last = 0;
  float weight = 0.75f;
  float bonus = 3;

  int32_t scored(int32_t head) const { return std::max(cache.length(0, head) - ignore_last, 0); }
  int64_t at(int32_t head, int32_t row) const { return head * scores.shape[1] + row; }
};

Array shifted(Array array, double scale, double mean) {
  for (int64_t i = 0; i < array.size(); ++i) array.set(i, array.get(i) * scale + mean);
  return array;
}

// Rows two to four positions apart; half of the positions lie in spans.
CombineCase combine_case(Random& random, std::vector<int32_t> lengths, int32_t ignore_last) {
  CombineCase c{CacheCase(random, {DType::kF32, 8, {std::move(lengths)}, 0}), {}, {}, {}, ignore_last};
  int32_t last = 0;
  for (int32_t h = 0; h < c.cache.kv_heads(); ++h) {
    int32_t position = 0;
    for (int32_t r = 0; r < c.cache.length(0, h); ++r) {
      c.cache.positions.set(c.cache.slot(0, h, r), position);
      last = std::max(last, position);
      position += 2 + static_cast<int32_t>(random() % 3);
    }
  }
  const std::vector<int64_t> shape{c.cache.kv_heads(), c.cache.longest() + 3};
  c.scores = shifted(Array::normal(random, DType::kF32, shape, 5), 1e-3, 2e-3);
  c.other = shifted(Array::normal(random, DType::kF32, shape, 2), 0.1, -0.8);
  Array spans(DType::kI32, {last / 20 + 1, 2});
  for (int64_t s = 0; s < spans.shape[0]; ++s) {
    spans.set(2 * s, static_cast<double>(20 * s + 7));
    spans.set(2 * s + 1, static_cast<double>(20 * s + 17));
  }
  c.spans = spans;
  return c;
}

CombineCase run_combine(Device& device, CombineCase c) {
  Placement p(device);
  const PlacedCache placed = place(p, c.cache, CacheUse::kRead);
  CombineScoresArgs args{.pages = placed.pages,
                         .view = placed.views,
                         .scores = p.out(c.scores),
                         .kv_heads = c.cache.kv_heads(),
                         .ignore_last = c.ignore_last,
                         .weight = c.weight,
                         .bonus = c.bonus};
  if (c.other) args.other = p.in(c.other);
  if (c.spans) args.spans = p.in(c.spans);
  EXPECT_OK(run(device.backend(), device.stream(), args,
                p.workspace(device.backend().ops().combine_scores_workspace(args))));
  p.finish();
  return c;
}

std::vector<double> z_scores(const CombineCase& c, const Array& of) {
  std::vector<double> values;
  for (int32_t h = 0; h < c.cache.kv_heads(); ++h) {
    for (int32_t r = 0; r < c.scored(h); ++r) values.push_back(of.get(c.at(h, r)));
  }
  double mean = 0;
  double count = 0;
  for (double x : values) {
    if (std::isfinite(x)) mean += x, count += 1;
  }
  mean /= count;
  double variance = 0;
  for (double x : values) {
    if (std::isfinite(x)) variance += (x - mean) * (x - mean) / count;
  }
  for (double& x : values) {
    x = !std::isfinite(x) ? std::numeric_limits<double>::quiet_NaN()
        : variance > 0    ? (x - mean) / std::sqrt(variance)
                          : 0;
  }
  return values;
}

CombineCase written_out(const CombineCase& c) {
  CombineCase expected = c;
  const std::vector<double> z = z_scores(c, c.scores);
  const std::vector<double> other = c.other ? z_scores(c, c.other) : std::vector<double>(z.size(), 0);
  size_t i = 0;
  for (int32_t h = 0; h < c.cache.kv_heads(); ++h) {
    for (int32_t r = 0; r < c.scored(h); ++r, ++i) {
      double score = z[i] + static_cast<double>(c.weight) * other[i];
      for (int64_t s = 0; c.spans && s < c.spans.shape[0]; ++s) {
        const int32_t position = c.cache.position(0, h, r);
        if (position >= c.spans.get(2 * s) && position < c.spans.get(2 * s + 1)) {
          score += static_cast<double>(c.bonus);
        }
      }
      expected.scores.set(c.at(h, r), score);
    }
  }
  return expected;
}

void expect_combined(const CombineCase& actual, const CombineCase& expected) {
  const int64_t capacity = expected.scores.shape[1];
  expect_close(actual.scores, expected.scores, [&](int64_t i) {
    // Rows that are not scored hold anything.
    if (i % capacity >= expected.scored(static_cast<int32_t>(i / capacity))) return Bound{HUGE_VAL};
    return Bound{8};
  });
}

TEST_P(CombineScoresTest, IsTheSumOfZScoresAndTheBonus) {
  for (int variant = 0; variant < 8; ++variant) {
    CombineCase c = combine_case(random, {37, 0, 50, 16}, variant % 2 == 0 ? 0 : 7);
    if (variant / 2 % 2 == 0) c.other = Array();
    if (variant / 4 == 0) c.spans = Array();
    SCOPED_TRACE("variant " + std::to_string(variant));
    expect_combined(run_combine(device(), c), written_out(c));
  }
}

TEST_P(CombineScoresTest, ScoresThatAreNoNumbersStayAloneWithIt) {
  CombineCase c = combine_case(random, {20, 30}, 0);
  c.scores.set(c.at(0, 3), std::numeric_limits<double>::quiet_NaN());
  c.scores.set(c.at(1, 8), std::numeric_limits<double>::infinity());
  c.other.set(c.at(1, 21), -std::numeric_limits<double>::infinity());
  const CombineCase actual = run_combine(device(), c);
  expect_combined(actual, written_out(c));
  for (const int64_t i : {c.at(0, 3), c.at(1, 8), c.at(1, 21)}) EXPECT_TRUE(std::isnan(actual.scores.get(i)));
  EXPECT_TRUE(std::isfinite(actual.scores.get(c.at(0, 4))));
}

TEST_P(CombineScoresTest, ScoresThatAreAllAlikeCountNothing) {
  CombineCase c = combine_case(random, {19, 4}, 0);
  for (int64_t i = 0; i < c.scores.size(); ++i) c.scores.set(i, 0.25);
  expect_combined(run_combine(device(), c), written_out(c));
  c.other = Array();
  c.spans = Array();
  const CombineCase actual = run_combine(device(), c);
  for (int32_t r = 0; r < 19; ++r) EXPECT_EQ(actual.scores.get(c.at(0, r)), 0);
}

TEST_P(CombineScoresAgainstReference, LongCachesMatch) {
  for (int32_t ignore_last : {0, 9}) {
    const CombineCase c = combine_case(random, {5000, 2048, 2049, 9, 1, 0}, ignore_last);
    expect_combined(run_combine(device(), c), run_combine(reference(), c));
  }
}

TEST_P(CombineScoresTest, BitsDependOnNeitherRunNorThreads) {
  const CombineCase c = combine_case(random, {4100, 91, 1030}, 4);
  const CombineCase once = run_combine(device(), c);
  expect_same(run_combine(device(), c).scores, once.scores);
  const auto single = Device::open(GetParam(), 1);
  expect_same(run_combine(*single, c).scores, once.scores);
}

}  // namespace
}  // namespace longhaul::testing
