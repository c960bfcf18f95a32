// How far a backend may be from the reference; stated here once, for all ops.
//
// The reference rounds only at outputs. A backend may also round inside, as a plain implementation of its
// compute dtype would, and gets twice that error plus one unit in the last place of the output:
//     |x - ref| <= |ref| * ulp(output) + 2 * steps * eps(compute) * magnitude
// `magnitude` is the sum of the absolute terms of the result, `steps` the roundings that stack up on the way.
#pragma once

#include <gtest/gtest.h>

#include <cmath>

#include "ops/array.h"

namespace longhaul::testing {

// The largest relative error of rounding to the dtype: half a unit in the last place of a power of two.
inline double epsilon(DType dtype) {
  switch (dtype) {
    case DType::kBf16:
      return 0x1p-8;
    case DType::kF16:
      return 0x1p-11;
    default:
      return 0x1p-24;
  }
}

// Roundings of a sum of `count` f32 terms in any order: their errors are independent.
inline double sum_steps(int64_t count) {
  return 4 + std::sqrt(static_cast<double>(count));
}

struct Bound {
  double magnitude;
  double steps = 4;
  DType compute = DType::kF32;
};

// `bound(i)` gives the Bound of element i.
template <class BoundOf>
void expect_close(const Array& actual, const Array& expected, BoundOf bound) {
  ASSERT_EQ(actual.shape, expected.shape);
  for (int64_t i = 0; i < expected.size(); ++i) {
    const double want = expected.get(i);
    const double got = actual.get(i);
    if (got == want || (std::isnan(got) && std::isnan(want))) continue;
    const Bound b = bound(i);
    const double allowed =
        2 * epsilon(actual.dtype) * std::fabs(want) + 2 * b.steps * epsilon(b.compute) * b.magnitude;
    ASSERT_LE(std::fabs(got - want), allowed) << "element " << i << ": " << got << ", expected " << want;
  }
}

inline void expect_close(const Array& actual, const Array& expected, Bound bound) {
  expect_close(actual, expected, [&](int64_t) { return bound; });
}

// The same bits.
inline void expect_same(const Array& actual, const Array& expected) {
  ASSERT_EQ(actual.shape, expected.shape);
  ASSERT_EQ(actual.payload(), expected.payload());
}

}  // namespace longhaul::testing
