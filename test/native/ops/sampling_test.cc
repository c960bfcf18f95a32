// sample: against the Hugging Face fixture, against the frequencies of its own draws, against the reference.
#include <cmath>
#include <limits>

#include "core/random.h"
#include "ops/device.h"
#include "ops/sampling_fixture.h"
#include "ops/tolerance.h"

namespace longhaul::testing {
namespace {

class SamplingTest : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, SamplingTest, ::testing::ValuesIn(Device::all()), DeviceName());

class SamplingAgainstReference : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, SamplingAgainstReference, ::testing::ValuesIn(Device::tested()),
                         DeviceName());

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct SampleCase {
  Array logits;
  std::vector<SampleParams> params;
  Array seen;  // empty: none
  Array ids;
  Array probabilities;
};

SampleCase sample_case(Array logits, std::vector<SampleParams> params) {
  const int64_t rows = logits.shape[0];
  const int64_t vocab = logits.shape[1];
  SampleCase c{std::move(logits), std::move(params), {}, Array(DType::kI32, {rows}), {}};
  c.probabilities = Array(DType::kF32, {rows, vocab}, 2);
  return c;
}

SampleCase run_sample(Device& device, SampleCase c) {
  Placement p(device);
  SampleArgs args;
  args.logits = p.in(c.logits);
  args.params =
      static_cast<const SampleParams*>(p.in_bytes(c.params.data(), c.params.size() * sizeof(SampleParams)));
  args.seen = p.out(c.seen);
  args.ids = p.out(c.ids);
  args.probabilities = p.out(c.probabilities);
  EXPECT_OK(
      run(device.backend(), device.stream(), args, p.workspace(device.backend().ops().sample_workspace(args))));
  p.finish();
  return c;
}

bool bit(const Array& seen, int64_t row, int64_t id) {
  return (static_cast<int>(seen.at({row, id / 8})) >> (id % 8) & 1) != 0;
}

void set_bit(Array& seen, int64_t row, int64_t id) {
  const int64_t at = row * seen.shape[1] + id / 8;
  seen.set(at, static_cast<int>(seen.get(at)) | 1 << (id % 8));
}

void expect_distribution(const Array& actual, const Array& expected) {
  for (int64_t i = 0; i < expected.size(); ++i) {
    const double want = expected.get(i);
    const double got = actual.get(i);
    ASSERT_EQ(got > 1e-30, want > 1e-30) << "support of element " << i << ": " << got << ", expected " << want;
    ASSERT_NEAR(got, want, 1e-5) << "element " << i;
  }
}

TEST_P(SamplingTest, DistributionsAreThoseOfHuggingFace) {
  const SamplingFixture fixture = read_sampling_fixture(std::string(LONGHAUL_FIXTURES) + "/sampling");
  ASSERT_EQ(fixture.cases.size(), 18u);
  const int64_t rows = fixture.logits.shape[0];
  const int64_t vocab = fixture.logits.shape[1];
  for (size_t i = 0; i < fixture.cases.size(); ++i) {
    SCOPED_TRACE("case " + std::to_string(i));
    const SamplingFixture::Case& expected = fixture.cases[i];
    SampleCase c =
        sample_case(fixture.logits, std::vector<SampleParams>(static_cast<size_t>(rows), expected.params));
    c.seen = Array(DType::kU8, {rows, (vocab + 7) / 8});
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t j = 0; j < fixture.previous_ids.shape[1]; ++j) {
        set_bit(c.seen, r, static_cast<int64_t>(fixture.previous_ids.at({r, j})));
      }
    }
    const SampleCase actual = run_sample(device(), c);
    expect_distribution(actual.probabilities, expected.probabilities);
    for (int64_t r = 0; r < rows; ++r) {
      int32_t support = 0;
      for (int64_t id = 0; id < vocab; ++id) support += actual.probabilities.at({r, id}) > 1e-30 ? 1 : 0;
      EXPECT_EQ(support, expected.support[static_cast<size_t>(r)]) << "row " << r;
    }
  }
}

TEST_P(SamplingTest, TiesAreThoseOfHuggingFace) {
  const SamplingFixture fixture = read_sampling_fixture(std::string(LONGHAUL_FIXTURES) + "/sampling");
  ASSERT_EQ(fixture.greedy_ids.size(), 4u);
  SampleParams greedy;
  greedy.temperature = 0;
  const SampleCase first =
      run_sample(device(), sample_case(fixture.tie_logits, {greedy, greedy, greedy, greedy}));
  for (int64_t r = 0; r < 4; ++r) {
    EXPECT_EQ(first.ids.get(r), fixture.greedy_ids[static_cast<size_t>(r)]);
    EXPECT_EQ(first.probabilities.at({r, static_cast<int64_t>(first.ids.get(r))}), 1);
  }
  SampleParams top3;
  top3.top_k = 3;
  const SampleCase ties = run_sample(device(), sample_case(fixture.top_k_tie_logits, {top3}));
  expect_distribution(ties.probabilities, fixture.top_k_tie_probabilities);
}

// One distribution, many positions: the drawn ids follow it.
TEST_P(SamplingTest, DrawsFollowTheDistribution) {
  constexpr int64_t kDraws = 4000;
  Array logits(DType::kF32, {kDraws, 6});
  const double row[] = {0.5, -kInfinity, 2.0, 1.0, -3.0, 1.5};
  for (int64_t i = 0; i < logits.size(); ++i) logits.set(i, row[i % 6]);
  std::vector<SampleParams> params(kDraws);
  for (size_t i = 0; i < params.size(); ++i) {
    params[i].seed = 7;
    params[i].position = i;
    params[i].temperature = 0.8f;
  }
  const SampleCase c = run_sample(device(), sample_case(logits, params));
  double counts[6] = {};
  for (int64_t i = 0; i < kDraws; ++i) ++counts[static_cast<int64_t>(c.ids.get(i))];
  EXPECT_EQ(counts[1], 0);
  for (int64_t id = 0; id < 6; ++id) {
    const double p = c.probabilities.at({0, id});
    // Five standard deviations of a binomial count.
    EXPECT_NEAR(counts[id], kDraws * p, 5 * std::sqrt(kDraws * p * (1 - p)) + 1e-9) << id;
  }
}

TEST_P(SamplingTest, ADrawIsTheInverseOfTheCumulativeDistribution) {
  const Array logits = Array::normal(random, DType::kF32, {200, 77});
  std::vector<SampleParams> params(200);
  for (size_t i = 0; i < params.size(); ++i) {
    params[i].seed = i % 3;
    params[i].position = 1000 + i;
    params[i].top_k = static_cast<int32_t>(i % 30);
    params[i].top_p = i % 2 == 0 ? 1 : 0.8f;
  }
  const SampleCase c = run_sample(device(), sample_case(logits, params));
  for (int64_t r = 0; r < 200; ++r) {
    const auto at = static_cast<size_t>(r);
    const double u = uniform01(params[at].seed, params[at].position);
    const auto id = static_cast<int64_t>(c.ids.get(r));
    double before = 0;
    for (int64_t i = 0; i < id; ++i) before += c.probabilities.at({r, i});
    ASSERT_LE(before, u + 1e-5) << "row " << r;
    ASSERT_GT(before + c.probabilities.at({r, id}), u - 1e-5) << "row " << r;
    ASSERT_GT(c.probabilities.at({r, id}), 0);
  }
}

TEST_P(SamplingTest, TheDrawnTokenIsSeenAfterwards) {
  SampleCase c = sample_case(Array::normal(random, DType::kF32, {5, 33}), std::vector<SampleParams>(5));
  for (size_t i = 0; i < 5; ++i) c.params[i].position = i;
  c.seen = Array(DType::kU8, {5, 5}, 1);
  set_bit(c.seen, 2, 32);
  const SampleCase before = c;
  c = run_sample(device(), c);
  for (int64_t r = 0; r < 5; ++r) {
    for (int64_t id = 0; id < 33; ++id) {
      EXPECT_EQ(bit(c.seen, r, id), bit(before.seen, r, id) || id == static_cast<int64_t>(c.ids.get(r)));
    }
  }
}

TEST_P(SamplingTest, ARowDependsOnItsOwnSeedAndPositionOnly) {
  const Array logits = Array::normal(random, DType::kF32, {9, 1000});
  std::vector<SampleParams> params(9);
  for (size_t i = 0; i < 9; ++i) {
    params[i].seed = 99 * i;
    params[i].position = 5 + i;
    params[i].temperature = i % 3 == 0 ? 0.0f : 1.3f;
    params[i].top_p = 0.95f;
    params[i].min_p = 0.01f;
  }
  const SampleCase together = run_sample(device(), sample_case(logits, params));
  for (int64_t r = 0; r < 9; ++r) {
    Array row(DType::kF32, {1, 1000});
    for (int64_t i = 0; i < 1000; ++i) row.set(i, logits.at({r, i}));
    const SampleCase alone = run_sample(device(), sample_case(row, {params[static_cast<size_t>(r)]}));
    EXPECT_EQ(alone.ids.get(0), together.ids.get(r));
    for (int64_t i = 0; i < 1000; ++i) ASSERT_EQ(alone.probabilities.get(i), together.probabilities.at({r, i}));
  }
}

TEST_P(SamplingAgainstReference, SampleMatches) {
  for (int64_t vocab : {1, 7, 320, 4099}) {
    Array logits = Array::normal(random, DType::kF32, {24, vocab}, 3);
    for (int64_t i = 0; i < logits.size(); ++i) logits.set(i, logits.get(i) * 4);
    std::vector<SampleParams> params(24);
    for (size_t i = 0; i < params.size(); ++i) {
      params[i].temperature = i % 5 == 0 ? 0.0f : 0.4f + 0.1f * static_cast<float>(i % 11);
      params[i].top_k = i % 4 == 1 ? 40 : 0;
      params[i].top_p = i % 3 == 0 ? 1.0f : 0.9f;
      params[i].min_p = i % 7 == 2 ? 0.03f : 0.0f;
      params[i].repetition_penalty = i % 2 == 0 ? 1.0f : 1.25f;
      params[i].seed = 0xfedcba9876543210u + i;
      params[i].position = i * i;
    }
    SampleCase c = sample_case(logits, params);
    c.seen = Array(DType::kU8, {24, (vocab + 7) / 8});
    for (int64_t i = 0; i < vocab * 3; ++i) {
      set_bit(c.seen, static_cast<int64_t>(random() % 24),
              static_cast<int64_t>(random() % static_cast<uint64_t>(vocab)));
    }
    const SampleCase actual = run_sample(device(), c);
    const SampleCase expected = run_sample(reference(), c);
    expect_distribution(actual.probabilities, expected.probabilities);
    expect_same(actual.ids, expected.ids);
    expect_same(actual.seen, expected.seen);
  }
}

// Few distinct logits over a wide vocabulary: the cuts of top-k and top-p fall among ties, whose first ids
// stay.
TEST_P(SamplingAgainstReference, CutsAmongTiesMatch) {
  constexpr int64_t kVocab = 5003;
  constexpr int64_t kRows = 12;
  Array logits(DType::kF32, {kRows, kVocab}, 1);
  for (int64_t i = 0; i < logits.size(); ++i) {
    logits.set(i, i / kVocab < 3 ? 1.5 : -static_cast<double>(random() % 5));
  }
  std::vector<SampleParams> params(kRows);
  for (size_t i = 0; i < params.size(); ++i) {
    params[i].top_k = i % 4 == 3 ? 700 : 0;
    params[i].top_p = 0.37f + 0.05f * static_cast<float>(i);
    params[i].min_p = i % 5 == 4 ? 0.2f : 0.0f;
    params[i].seed = 11 + i;
  }
  const SampleCase c = sample_case(logits, params);
  const SampleCase actual = run_sample(device(), c);
  const SampleCase expected = run_sample(reference(), c);
  expect_distribution(actual.probabilities, expected.probabilities);
  expect_same(actual.ids, expected.ids);
}

TEST_P(SamplingTest, LogitsThatAreNoNumbersAreNeverDrawn) {
  Array logits(DType::kF32, {3, 4});
  const double rows[3][4] = {{std::nan(""), 1, std::nan(""), 1},
                             {-kInfinity, -kInfinity, -kInfinity, -kInfinity},
                             {0, kInfinity, 3, kInfinity}};
  for (int64_t i = 0; i < 12; ++i) logits.set(i, rows[i / 4][i % 4]);
  std::vector<SampleParams> params(3);
  for (size_t i = 0; i < 3; ++i) params[i].position = i;
  const SampleCase c = run_sample(device(), sample_case(logits, params));
  const double expected[3][4] = {{0, 0.5, 0, 0.5}, {1, 0, 0, 0}, {0, 1, 0, 0}};
  for (int64_t i = 0; i < 12; ++i) EXPECT_EQ(c.probabilities.get(i), expected[i / 4][i % 4]) << i;
  EXPECT_EQ(static_cast<int64_t>(c.ids.get(0)) % 2, 1);
  EXPECT_EQ(c.ids.get(1), 0);
  EXPECT_EQ(c.ids.get(2), 1);
}

TEST_P(SamplingTest, SeenAndProbabilitiesAreOptional) {
  SampleCase c = sample_case(Array::normal(random, DType::kF32, {2, 50}), std::vector<SampleParams>(2));
  const SampleCase with = run_sample(device(), c);
  c.probabilities = Array();
  expect_same(run_sample(device(), c).ids, with.ids);
}

}  // namespace
}  // namespace longhaul::testing
