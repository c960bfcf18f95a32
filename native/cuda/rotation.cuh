// Rotary embedding: angles in double, rotations in f32.
#pragma once

#include "cuda/element.cuh"

namespace longhaul::cuda {

struct SineCosine {
  double sin;
  double cos;
};

// Of an angle up to 2^52 quarter turns. CUDA's own needs a table in local memory for large angles; positions
// make them large, so it is done here: reduced to a quarter turn by pi / 2 in two parts (the first product is
// exact in the fused multiply-add, the difference too), then Taylor series, whose next terms are below 1e-15.
__device__ __forceinline__ SineCosine sine_cosine(double angle) {
  constexpr double kTurnsPerRadian = 0.63661977236758134308;  // 2 / pi, quarter turns
  constexpr double kQuarterHigh = 1.57079632679489655800;
  constexpr double kQuarterLow = 6.12323399573676603587e-17;
  const double turns = rint(angle * kTurnsPerRadian);
  const double r = fma(-turns, kQuarterLow, fma(-turns, kQuarterHigh, angle));
  const double r2 = r * r;
  double sin = -1.0 / 1307674368000.0;
  sin = fma(sin, r2, 1.0 / 6227020800.0);
  sin = fma(sin, r2, -1.0 / 39916800.0);
  sin = fma(sin, r2, 1.0 / 362880.0);
  sin = fma(sin, r2, -1.0 / 5040.0);
  sin = fma(sin, r2, 1.0 / 120.0);
  sin = fma(sin, r2, -1.0 / 6.0);
  sin = fma(sin * r2, r, r);
  double cos = -1.0 / 87178291200.0;
  cos = fma(cos, r2, 1.0 / 479001600.0);
  cos = fma(cos, r2, -1.0 / 3628800.0);
  cos = fma(cos, r2, 1.0 / 40320.0);
  cos = fma(cos, r2, -1.0 / 720.0);
  cos = fma(cos, r2, 1.0 / 24.0);
  cos = fma(cos, r2, -0.5);
  cos = fma(cos, r2, 1.0);
  const auto quadrant = static_cast<int>(static_cast<long long>(turns) & 3);
  const double s = quadrant % 2 == 0 ? sin : cos;
  const double c = quadrant % 2 == 0 ? cos : sin;
  return {quadrant >= 2 ? -s : s, quadrant == 1 || quadrant == 2 ? -c : c};
}

// Rotates kWidth pairs; cos and sin are theirs, aligned as load_floats wants.
template <int kWidth>
__device__ __forceinline__ void rotate(float (&low)[kWidth], float (&high)[kWidth], const float* cos_at,
                                       const float* sin_at) {
  float cos[kWidth];
  float sin[kWidth];
  load_floats(cos_at, cos);
  load_floats(sin_at, sin);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    const float x = low[i];
    low[i] = x * cos[i] - high[i] * sin[i];
    high[i] = high[i] * cos[i] + x * sin[i];
  }
}

}  // namespace longhaul::cuda
