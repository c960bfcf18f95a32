#include "core/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace longhaul {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// A 16-bit float from its definition: sign, exponent bits, mantissa bits.
double by_definition(uint16_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const double sign = bits & 0x8000 ? -1.0 : 1.0;
  if (exponent == (1 << exponent_bits) - 1) return mantissa ? std::nan("") : sign * kInfinity;
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits);
}

// Nearest of the format's non-negative values, ties to the even one: a search, no bit tricks. `bits` runs over
// the values in order, and infinity stands for the value that would follow the largest.
uint16_t nearest(float x, int exponent_bits, int mantissa_bits) {
  const uint16_t infinity = static_cast<uint16_t>(((1 << exponent_bits) - 1) << mantissa_bits);
  const double past_largest = std::ldexp(1.0, 1 << (exponent_bits - 1));
  const auto value = [&](int bits) {
    return bits == infinity ? past_largest
                            : by_definition(static_cast<uint16_t>(bits), exponent_bits, mantissa_bits);
  };
  const double magnitude = std::fabs(static_cast<double>(x));
  int low = 0, high = infinity;
  if (magnitude >= past_largest) low = infinity;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (value(middle) <= magnitude ? low : high) = middle;
  }
  if (low != infinity) {
    const double below = magnitude - value(low), above = value(high) - magnitude;
    if (above < below || (above == below && high % 2 == 0)) low = high;
  }
  return static_cast<uint16_t>(low | (std::signbit(x) ? 0x8000 : 0));
}

TEST(DType, SizesAndNames) {
  EXPECT_EQ(size_of(DType::kF64), 8u);
  EXPECT_EQ(size_of(DType::kF32), 4u);
  EXPECT_EQ(size_of(DType::kI32), 4u);
  EXPECT_EQ(size_of(DType::kU32), 4u);
  EXPECT_EQ(size_of(DType::kBf16), 2u);
  EXPECT_EQ(size_of(DType::kF16), 2u);
  EXPECT_EQ(size_of(DType::kU8), 1u);
  EXPECT_STREQ(name_of(DType::kBf16), "bf16");
  EXPECT_TRUE(is_float(DType::kF16));
  EXPECT_FALSE(is_float(DType::kU8));
}

TEST(DType, EveryHalfHasItsDefinedValueAndComesBack) {
  for (int i = 0; i <= 0xffff; ++i) {
    const uint16_t bits = static_cast<uint16_t>(i);
    const double f16 = by_definition(bits, 5, 10), bf16 = by_definition(bits, 8, 7);
    if (std::isnan(f16)) {
      EXPECT_TRUE(std::isnan(to_f32(F16{bits}))) << i;
      EXPECT_TRUE(std::isnan(to_f32(to_f16(to_f32(F16{bits}))))) << i;
    } else {
      ASSERT_EQ(to_f32(F16{bits}), f16) << i;
      ASSERT_EQ(to_f16(static_cast<float>(f16)).bits, bits);
    }
    if (std::isnan(bf16)) {
      EXPECT_TRUE(std::isnan(to_f32(Bf16{bits}))) << i;
      EXPECT_TRUE(std::isnan(to_f32(to_bf16(to_f32(Bf16{bits}))))) << i;
    } else {
      ASSERT_EQ(to_f32(Bf16{bits}), bf16) << i;
      ASSERT_EQ(to_bf16(static_cast<float>(bf16)).bits, bits);
    }
  }
}

void expect_nearest(uint32_t bits) {
  for (const uint32_t sign : {0u, 0x80000000u}) {
    const float x = std::bit_cast<float>(bits | sign);
    ASSERT_EQ(to_f16(x).bits, nearest(x, 5, 10)) << x;
    ASSERT_EQ(to_bf16(x).bits, nearest(x, 8, 7)) << x;
  }
}

TEST(DType, RoundsToNearestEven) {
  // Every bf16 value and every tie between two, with its neighbours in f32.
  expect_nearest(0);
  for (uint32_t bits = 0x8000; bits < 0x7f800000u; bits += 0x8000) {
    for (const uint32_t near : {bits - 1, bits, bits + 1}) expect_nearest(near);
  }
  // The same for f16, from below half its smallest value, 2^-25, to past its largest, 65504.
  for (uint32_t bits = 0x32800000u; bits < 0x47900000u; bits += 0x1000) {
    for (const uint32_t near : {bits - 1, bits, bits + 1}) expect_nearest(near);
  }
  expect_nearest(0x7f7fffffu);
  expect_nearest(0x7f800000u);
}

TEST(DType, KeepsNanThoughItsHighBitsAreClear) {
  const float quiet_in_low_bits = std::bit_cast<float>(0x7f800001u);
  EXPECT_TRUE(std::isnan(to_f32(to_bf16(quiet_in_low_bits))));
  EXPECT_TRUE(std::isnan(to_f32(to_f16(quiet_in_low_bits))));
  EXPECT_EQ(from_f32<float>(1.25f), 1.25f);
}

}  // namespace
}  // namespace longhaul
