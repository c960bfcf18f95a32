#include "cpu/radix_select.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "cpu/cpu_test_support.h"

namespace longhaul::cpu {
namespace {

TEST(OrderKey, OrdersAsFloatsDo) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kLowest = std::numeric_limits<float>::denorm_min();
  const float ascending[] = {-kInfinity, -3e38f, -1, -kLowest, 0, kLowest, 1e-30f, 1, 3e38f, kInfinity};
  for (size_t i = 1; i < std::size(ascending); ++i) {
    EXPECT_LT(order_key(ascending[i - 1]), order_key(ascending[i])) << ascending[i];
  }
  EXPECT_EQ(order_key(-0.0f), order_key(0.0f));
  EXPECT_LT(order_key(std::nanf("")), order_key(-kInfinity));
  EXPECT_EQ(order_key(-std::nanf("")), order_key(std::nanf("")));
}

void expect_cut(const std::vector<float>& values) {
  std::vector<uint32_t> keys;
  for (float x : values) keys.push_back(order_key(x));
  std::vector<uint32_t> sorted = keys;
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  for (size_t k = 1; k <= sorted.size(); k += 1 + k / 5) {
    const Cut cut = kth_largest(static_cast<int64_t>(k), [&](auto&& visit) {
      for (uint32_t key : keys) visit(key);
    });
    ASSERT_EQ(cut.key, sorted[k - 1]) << k;
    ASSERT_EQ(cut.larger, std::count_if(keys.begin(), keys.end(), [&](uint32_t key) { return key > cut.key; }))
        << k;
  }
}

TEST(KthLargest, IsThatOfASort) {
  Numbers numbers(11);
  std::vector<float> values(3001);
  for (float& x : values) x = numbers.next();
  expect_cut(values);
  // Many ties, some NaN, one value, and values that differ in their last bit only.
  for (float& x : values) x = std::floor(numbers.next() * 4);
  expect_cut(values);
  for (size_t i = 0; i < values.size(); i += 3) values[i] = std::nanf("");
  expect_cut(values);
  expect_cut({-2.5f});
  expect_cut(std::vector<float>(100, 1.0f));
  float next = 1;
  for (float& x : values) x = next = std::nextafter(next, 2.0f);
  expect_cut(values);
}

}  // namespace
}  // namespace longhaul::cpu
