// Large vocabularies, where the CPU's sampler takes its short cuts, against a plain sort.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "cpu/cpu_test_support.h"
#include "cpu/ops.h"

namespace longhaul::cpu {
namespace {

using SamplingOfLargeVocabularies = EveryIsa;
INSTANTIATE_TEST_SUITE_P(Isa, SamplingOfLargeVocabularies, ::testing::ValuesIn(every_isa()), isa_name);

// The distribution by sorting everything, in double. Equal logits by id.
std::vector<double> expected_distribution(const std::vector<float>& logits, const SampleParams& params) {
  std::vector<int> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  std::vector<double> p(logits.size(), 0.0);
  const auto weight = [&](int id) {
    return std::exp((double{logits[id]} - logits[order[0]]) / params.temperature);
  };
  size_t kept = logits.size();
  if (params.top_k > 0 && params.top_k < static_cast<int>(kept)) {
    kept = params.top_k;
    while (kept < logits.size() && logits[order[kept]] == logits[order[kept - 1]]) ++kept;
  }
  double total = 0;
  for (size_t i = 0; i < kept; ++i) total += weight(order[i]);
  double before = 0;
  for (size_t i = 0; i < kept; ++i) {
    if (params.top_p < 1 && i > 0 && before >= params.top_p * total) break;
    p[order[i]] = weight(order[i]);
    before += weight(order[i]);
  }
  for (double& x : p) {
    if (x < params.min_p) x = 0;
  }
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& x : p) x /= sum;
  return p;
}

TEST_P(SamplingOfLargeVocabularies, MatchesASort) {
  constexpr int kVocab = 5003;
  Numbers numbers(5);
  std::vector<std::vector<float>> rows(5, std::vector<float>(kVocab));
  for (float& x : rows[0]) x = 8 * numbers.next();                                      // wide
  for (float& x : rows[1]) x = 0.001f * numbers.next();                                 // nearly flat
  for (float& x : rows[2]) x = std::floor(6 * numbers.next());                          // few distinct values
  for (int i = 0; i < kVocab; ++i) rows[3][i] = 2.5f;                                   // all equal
  for (int i = 0; i < kVocab; ++i) rows[4][i] = i % 97 == 3 ? 30.0f : -200.0f + i % 5;  // a cliff
  std::vector<SampleParams> cases;
  for (float temperature : {0.3f, 1.0f, 4.0f}) {
    for (int32_t top_k : {0, 1, 50, 4000, 9000}) {
      for (float top_p : {0.05f, 0.9f, 1.0f}) {
        cases.push_back({.temperature = temperature, .top_k = top_k, .top_p = top_p});
      }
    }
    cases.push_back({.temperature = temperature, .top_p = 0.95f, .min_p = 0.1f});
  }
  for (const SampleParams& params : cases) {
    SCOPED_TRACE("temperature " + std::to_string(params.temperature) + " top_k " +
                 std::to_string(params.top_k) + " top_p " + std::to_string(params.top_p) + " min_p " +
                 std::to_string(params.min_p));
    Values logits(DType::kF32, {static_cast<int64_t>(rows.size()), kVocab});
    Values probabilities(DType::kF32, {static_cast<int64_t>(rows.size()), kVocab});
    for (size_t r = 0; r < rows.size(); ++r) {
      for (int i = 0; i < kVocab; ++i) logits.set(static_cast<int64_t>(r) * kVocab + i, rows[r][i]);
    }
    const std::vector<SampleParams> all(rows.size(), params);
    std::vector<int32_t> ids(rows.size(), -1);
    const SampleArgs args{.logits = logits.tensor(),
                          .params = all.data(),
                          .ids = Tensor::dense(ids.data(), DType::kI32, {static_cast<int64_t>(ids.size())}),
                          .probabilities = probabilities.tensor()};
    const Buffer memory = workspace(sample_workspace(args));
    ASSERT_TRUE(sample(*stream_, args, {memory.data(), memory.bytes()}).ok());
    EXPECT_TRUE(probabilities.intact());
    for (size_t r = 0; r < rows.size(); ++r) {
      const std::vector<double> expected = expected_distribution(rows[r], params);
      int differing = 0;
      for (int i = 0; i < kVocab; ++i) {
        const double p = probabilities.get(static_cast<int64_t>(r) * kVocab + i);
        if ((p > 1e-30) != (expected[i] > 1e-30)) {
          // Single precision may move the cut by a token, no more.
          ++differing;
          continue;
        }
        ASSERT_NEAR(p, expected[i], 1e-5 * expected[i] + 2e-6) << "row " << r << " token " << i;
      }
      ASSERT_LE(differing, 1) << "row " << r;
      ASSERT_GT(probabilities.get(static_cast<int64_t>(r) * kVocab + ids[r]), 0) << "row " << r;
    }
  }
}

// More rows than the workspace has slots for.
TEST_P(SamplingOfLargeVocabularies, EveryRowOfALargeBatchIsItsOwn) {
  constexpr int kRows = 40;
  constexpr int kVocab = 129;
  Numbers numbers(9);
  Values logits(DType::kF32, {kRows, kVocab});
  logits.fill(numbers);
  std::vector<SampleParams> params(kRows);
  for (int r = 0; r < kRows; ++r) {
    params[r] = {.temperature = r % 3 == 0 ? 0.0f : 0.8f, .top_p = 0.9f, .seed = 4, .position = uint64_t(r)};
  }
  const auto draw = [&](int first, int count) {
    std::vector<int32_t> ids(count);
    const SampleArgs args{.logits = logits.tensor().slice(first, count),
                          .params = params.data() + first,
                          .ids = Tensor::dense(ids.data(), DType::kI32, {count})};
    const Buffer memory = workspace(sample_workspace(args));
    EXPECT_TRUE(sample(*stream_, args, {memory.data(), memory.bytes()}).ok());
    return ids;
  };
  const std::vector<int32_t> together = draw(0, kRows);
  for (int r = 0; r < kRows; ++r) EXPECT_EQ(draw(r, 1)[0], together[r]) << r;
  for (int r = 0; r < kRows; r += 3) {
    int best = 0;
    for (int i = 1; i < kVocab; ++i) {
      if (logits.get(r * kVocab + i) > logits.get(r * kVocab + best)) best = i;
    }
    EXPECT_EQ(together[r], best) << r;
  }
}

}  // namespace
}  // namespace longhaul::cpu
