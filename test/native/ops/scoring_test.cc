// score_keys and key_diversity: against matrices written out here and against the reference.
#include <algorithm>
#include <cmath>

#include "ops/cache_case.h"
#include "ops/tolerance.h"

namespace longhaul::testing {
namespace {

class ScoringTest : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, ScoringTest, ::testing::ValuesIn(Device::all()), DeviceName());

class ScoringAgainstReference : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, ScoringAgainstReference, ::testing::ValuesIn(Device::tested()), DeviceName());

struct ScoreCase {
  CacheCase cache;
  Array q, scores;
  int32_t ignore_last = 0;
  int32_t window = 0;
  ScoreReduce reduce = ScoreReduce::kMax;
  int32_t pool_kernel = 1;
};

ScoreCase score_case(Random& random, const CacheShape& shape, int32_t queries, int32_t group,
                     DType activation) {
  ScoreCase c{CacheCase(random, shape), {}, {}};
  const int64_t kv_heads = c.cache.kv_heads();
  c.q = Array::normal(random, activation, {queries, kv_heads * group, shape.dim}, 8);
  c.scores = Array(DType::kF32, {kv_heads, c.cache.longest() + 5}, 3);
  return c;
}

float scale_of(const ScoreCase& c) {
  return static_cast<float>(1 / std::sqrt(static_cast<double>(c.cache.dim())));
}

ScoreCase run_score(Device& device, ScoreCase c) {
  Placement p(device);
  const PlacedCache placed = place(p, c.cache, CacheUse::kRead);
  ScoreKeysArgs args;
  args.pages = placed.pages;
  args.view = placed.views;
  args.q = p.in(c.q);
  args.scores = p.out(c.scores);
  args.kv_heads = c.cache.kv_heads();
  args.scale = scale_of(c);
  args.ignore_last = c.ignore_last;
  args.window = c.window;
  args.reduce = c.reduce;
  args.pool_kernel = c.pool_kernel;
  EXPECT_OK(run(device.backend(), device.stream(), args,
                p.workspace(device.backend().ops().score_keys_workspace(args))));
  p.finish();
  return c;
}

// The whole matrix of attention weights of one head, [queries][rows], then its reduction.
std::vector<double> scores_of_head(const ScoreCase& c, int32_t kv) {
  const auto queries = static_cast<int32_t>(c.q.shape[0]);
  const int32_t group = static_cast<int32_t>(c.q.shape[1]) / c.cache.kv_heads();
  const int32_t rows = std::max(c.cache.length(0, kv) - c.ignore_last, 0);
  const int32_t scored = std::max(rows - c.window, 0);
  std::vector<double> reduced(static_cast<size_t>(scored), 0);
  for (int32_t h = kv * group; h < (kv + 1) * group; ++h) {
    for (int32_t t = 0; t < queries; ++t) {
      std::vector<double> weights;
      double total = 0;
      for (int32_t r = 0; r < rows; ++r) {
        const bool visible = c.window == 0 || r <= rows - c.window + t;
        double score = 0;
        const std::vector<double> key = c.cache.key(0, kv, r);
        for (size_t d = 0; d < key.size(); ++d) score += key[d] * c.q.at({t, h, static_cast<int64_t>(d)});
        weights.push_back(visible ? std::exp(score * static_cast<double>(scale_of(c))) : 0);
        total += weights.back();
      }
      for (size_t r = 0; r < reduced.size(); ++r) {
        const double w = weights[r] / total;
        reduced[r] =
            c.reduce == ScoreReduce::kMax ? std::max(reduced[r], w) : reduced[r] + w / (queries * group);
      }
    }
  }
  std::vector<double> pooled(reduced.size(), 0);
  const auto half = static_cast<int64_t>(c.pool_kernel / 2);
  for (int64_t r = 0; r < scored; ++r) {
    for (int64_t k = -half; k <= half; ++k) {
      if (r + k < 0 || r + k >= scored) continue;
      pooled[static_cast<size_t>(r)] += reduced[static_cast<size_t>(r + k)] / c.pool_kernel;
    }
  }
  return pooled;
}

// An error of a score is a relative error of its exponential.
void expect_scores(const ScoreCase& actual, const ScoreCase& expected) {
  const int64_t capacity = expected.scores.shape[1];
  const double steps = 16 + 8 * sum_steps(expected.cache.dim());
  expect_close(actual.scores, expected.scores, [&](int64_t i) {
    const int32_t scored =
        expected.cache.length(0, static_cast<int32_t>(i / capacity)) - expected.ignore_last - expected.window;
    // Rows that are not scored hold anything.
    if (i % capacity >= scored) return Bound{HUGE_VAL};
    return Bound{std::fabs(expected.scores.get(i)), steps};
  });
}

TEST_P(ScoringTest, ScoresAreTheReducedMatrix) {
  for (int variant = 0; variant < 8; ++variant) {
    ScoreCase c = score_case(random, {DType::kF32, 16, {{50, 21, 9}}, 0}, 6, 2, DType::kF32);
    c.ignore_last = variant % 2 == 0 ? 0 : 6;
    c.window = variant / 2 % 2 == 0 ? 0 : 6;
    c.reduce = variant / 4 == 0 ? ScoreReduce::kMax : ScoreReduce::kMean;
    c.pool_kernel = c.window == 0 ? 1 : 5;
    ScoreCase expected = c;
    for (int32_t h = 0; h < 3; ++h) {
      const std::vector<double> scores = scores_of_head(c, h);
      for (size_t r = 0; r < scores.size(); ++r) {
        expected.scores.set(h * c.scores.shape[1] + static_cast<int64_t>(r), scores[r]);
      }
    }
    SCOPED_TRACE("variant " + std::to_string(variant));
    expect_scores(run_score(device(), c), expected);
  }
}

TEST_P(ScoringAgainstReference, ScoresMatch) {
  struct Heads {
    int32_t kv_heads, group;
  };
  for (DType kv : {DType::kF32, DType::kBf16, DType::kF16}) {
    for (DType activation : {DType::kF32, DType::kBf16}) {
      for (int32_t dim : {8, 24, 64, 80, 128, 256}) {
        for (const Heads& heads : {Heads{1, 1}, Heads{2, 2}, Heads{1, 8}, Heads{3, 3}}) {
          const int32_t queries = 1 + static_cast<int32_t>(random() % 40);
          CacheShape shape{kv, dim, {{}}, 0};
          for (int32_t h = 0; h < heads.kv_heads; ++h) {
            shape.lengths[0].push_back(queries * 2 + static_cast<int32_t>(random() % 150));
          }
          ScoreCase c = score_case(random, shape, queries, heads.group, activation);
          c.ignore_last = random() % 2 == 0 ? queries : 0;
          c.window = random() % 2 == 0 ? queries : 0;
          c.reduce = random() % 2 == 0 ? ScoreReduce::kMax : ScoreReduce::kMean;
          c.pool_kernel = static_cast<int32_t>(random() % 4) * 2 + 1;
          SCOPED_TRACE(std::string(name_of(activation)) + " on " + name_of(kv) + " dim " + std::to_string(dim) +
                       " queries " + std::to_string(queries) + " window " + std::to_string(c.window) +
                       " ignored " + std::to_string(c.ignore_last) + " kernel " +
                       std::to_string(c.pool_kernel));
          expect_scores(run_score(device(), c), run_score(reference(), c));
        }
      }
    }
  }
}

TEST_P(ScoringAgainstReference, LongCachesMatch) {
  for (DType type : {DType::kF32, DType::kBf16}) {
    for (int32_t window : {0, 9}) {
      ScoreCase c = score_case(random, {type, 48, {{2600, 1024, 1040, 30}}, 0}, 9, 3, type);
      c.window = window;
      c.ignore_last = 9 - window;
      c.reduce = window == 0 ? ScoreReduce::kMax : ScoreReduce::kMean;
      SCOPED_TRACE(std::string(name_of(type)) + " window " + std::to_string(window));
      expect_scores(run_score(device(), c), run_score(reference(), c));
    }
  }
}

TEST_P(ScoringAgainstReference, HeadsWithNothingToScoreMatch) {
  ScoreCase c = score_case(random, {DType::kF32, 16, {{0, 4, 40}}, 0}, 4, 1, DType::kF32);
  c.window = 4;
  c.reduce = ScoreReduce::kMean;
  c.pool_kernel = 3;
  expect_scores(run_score(device(), c), run_score(reference(), c));
}

TEST_P(ScoringTest, ScoreBitsDependOnNeitherRunNorThreads) {
  ScoreCase c = score_case(random, {DType::kBf16, 64, {{700, 91}}, 0}, 33, 3, DType::kBf16);
  c.reduce = ScoreReduce::kMean;
  const ScoreCase once = run_score(device(), c);
  expect_same(run_score(device(), c).scores, once.scores);
  const auto single = Device::open(GetParam(), 1);
  expect_same(run_score(*single, c).scores, once.scores);
}

struct DiversityCase {
  CacheCase cache;
  Array scores;
  int32_t ignore_last = 0;
};

DiversityCase diversity_case(Random& random, const CacheShape& shape, int32_t ignore_last) {
  DiversityCase c{CacheCase(random, shape), {}, ignore_last};
  c.scores = Array(DType::kF32, {c.cache.kv_heads(), c.cache.longest() + 2}, 1);
  return c;
}

DiversityCase run_diversity(Device& device, DiversityCase c) {
  Placement p(device);
  const PlacedCache placed = place(p, c.cache, CacheUse::kRead);
  KeyDiversityArgs args{placed.pages, placed.views, p.out(c.scores), c.cache.kv_heads(), c.ignore_last};
  EXPECT_OK(run(device.backend(), device.stream(), args,
                p.workspace(device.backend().ops().key_diversity_workspace(args))));
  p.finish();
  return c;
}

// Scores are cosines; the anchor of n random directions is short, which enlarges their error by sqrt(n).
void expect_diversity(const DiversityCase& actual, const DiversityCase& expected) {
  const int64_t capacity = expected.scores.shape[1];
  const double steps = sum_steps(expected.cache.dim()) * sum_steps(expected.cache.longest());
  expect_close(actual.scores, expected.scores, [&](int64_t i) {
    const int32_t scored = expected.cache.length(0, static_cast<int32_t>(i / capacity)) - expected.ignore_last;
    if (i % capacity >= scored) return Bound{HUGE_VAL};
    return Bound{1, steps};
  });
}

TEST_P(ScoringTest, DiversityIsMinusTheCosineWithTheMeanDirection) {
  DiversityCase c = diversity_case(random, {DType::kF32, 8, {{20}}, 0}, 3);
  // A zero key has no direction.
  const int64_t zero = c.cache.slot(0, 0, 4);
  for (int64_t d = 0; d < 8; ++d) c.cache.k.set(zero * 8 + d, 0);
  DiversityCase expected = c;
  std::vector<double> anchor(8, 0);
  std::vector<std::vector<double>> units;
  for (int32_t r = 0; r < 17; ++r) {
    std::vector<double> u = c.cache.key(0, 0, r);
    const double norm = std::hypot(std::hypot(std::hypot(u[0], u[1]), std::hypot(u[2], u[3])),
                                   std::hypot(std::hypot(u[4], u[5]), std::hypot(u[6], u[7])));
    for (size_t d = 0; d < 8; ++d) anchor[d] += (u[d] = norm > 0 ? u[d] / norm : 0);
    units.push_back(u);
  }
  double length = 0;
  for (double x : anchor) length += x * x;
  for (int32_t r = 0; r < 17; ++r) {
    double cosine = 0;
    for (size_t d = 0; d < 8; ++d) cosine += units[static_cast<size_t>(r)][d] * anchor[d] / std::sqrt(length);
    expected.scores.set(r, -cosine);
  }
  const DiversityCase actual = run_diversity(device(), c);
  expect_diversity(actual, expected);
  EXPECT_EQ(actual.scores.get(4), 0);
}

TEST_P(ScoringAgainstReference, DiversityMatches) {
  for (DType type : {DType::kF32, DType::kBf16, DType::kF16}) {
    for (int32_t dim : {8, 24, 64, 80, 128, 256}) {
      for (int32_t ignore_last : {0, 7}) {
        const DiversityCase c = diversity_case(random, {type, dim, {{1, 300, 16, 0, 65}}, 0}, ignore_last);
        SCOPED_TRACE(std::string(name_of(type)) + " dim " + std::to_string(dim));
        expect_diversity(run_diversity(device(), c), run_diversity(reference(), c));
      }
    }
  }
}

}  // namespace
}  // namespace longhaul::testing
