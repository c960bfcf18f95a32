// The counter-based generator that every sampler uses: a draw depends on its (seed, position) and on nothing
// else.
#pragma once

#include <cstdint>

namespace longhaul {

// The output function of splitmix64: every input bit changes each output bit with probability one half.
constexpr uint64_t mix64(uint64_t x) {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9u;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Uniform in [0, 1) with 53 bits. The seed is mixed before the position comes in, so that consecutive seeds do
// not give shifted copies of one sequence.
constexpr double uniform01(uint64_t seed, uint64_t position) {
  constexpr uint64_t kGolden = 0x9e3779b97f4a7c15u;
  const uint64_t key = mix64(seed + kGolden);
  return static_cast<double>(mix64(key + (position + 1) * kGolden) >> 11) * 0x1p-53;
}

}  // namespace longhaul
