#include "core/random.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace longhaul {
namespace {

// Published outputs of splitmix64 for the seed 0.
TEST(RandomTest, Mix64IsSplitmix64) {
  constexpr uint64_t kGolden = 0x9e3779b97f4a7c15u;
  EXPECT_EQ(mix64(kGolden), 0xe220a8397b1dcdafu);
  EXPECT_EQ(mix64(2 * kGolden), 0x6e789e6aa1b965f4u);
  EXPECT_EQ(mix64(3 * kGolden), 0x06c45d188009454fu);
}

TEST(RandomTest, EverySeedAndPositionHasItsOwnDraw) {
  std::set<double> draws;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    for (uint64_t position = 0; position < 100; ++position) draws.insert(uniform01(seed, position));
  }
  EXPECT_EQ(draws.size(), 10000u);
  EXPECT_GE(*draws.begin(), 0);
  EXPECT_LT(*draws.rbegin(), 1);
}

// Along positions of one seed and along seeds at one position: even, and neighbours unrelated.
TEST(RandomTest, DrawsAreUniform) {
  constexpr int kDraws = 20000;
  for (bool along_positions : {true, false}) {
    double bins[16] = {};
    double product = 0;
    double previous = 0.5;
    for (uint64_t i = 0; i < kDraws; ++i) {
      const double u = along_positions ? uniform01(3, i) : uniform01(i, 3);
      ++bins[static_cast<int>(u * 16)];
      product += (u - 0.5) * (previous - 0.5);
      previous = u;
    }
    double chi_squared = 0;
    for (double count : bins)
      chi_squared += (count - kDraws / 16.0) * (count - kDraws / 16.0) / (kDraws / 16.0);
    EXPECT_LT(chi_squared, 44);  // 15 degrees of freedom: one in ten thousand is above
    // The product of two independent draws has variance 1 / 144.
    EXPECT_LT(std::fabs(product), 4 * std::sqrt(kDraws / 144.0));
  }
}

}  // namespace
}  // namespace longhaul
