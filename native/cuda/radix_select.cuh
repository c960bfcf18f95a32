// The k-th largest of many floats without sorting them, in three passes: each counts a digit of the keys that
// agree with the k-th largest in the digits before. Counts may be weights, as long as they are integers: their
// sums do not depend on the order of atomics.
#pragma once

#include "cuda/prefix_sum.cuh"

namespace longhaul::cuda {

// Orders as floats do, -0 equal to 0 and NaN below everything.
__device__ __forceinline__ uint32_t order_key(float x) {
  if (x != x) return 0;
  const uint32_t bits = __float_as_uint(x + 0.0f);  // -0 + 0 is 0
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// The float of a key.
__device__ __forceinline__ float float_of_key(uint32_t key) {
  return __uint_as_float((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}

constexpr int kRadixPasses = 3;
constexpr int kRadixBins = 1 << 11;
constexpr int kRadixThreads = 256;  // of a block that looks for a digit
constexpr int kBinsPerThread = kRadixBins / kRadixThreads;

// Digits have 11, 11 and 10 bits from the top.
__device__ __forceinline__ constexpr int digit_shift(int pass) {
  return pass == 0 ? 21 : pass == 1 ? 10 : 0;
}

// Whether a key agrees with `prefix` in the digits before this pass.
__device__ __forceinline__ bool agrees(uint32_t key, uint32_t prefix, int pass) {
  return pass == 0 || (key ^ prefix) >> digit_shift(pass - 1) == 0;
}

// Bins begin with the largest digit.
__device__ __forceinline__ int bin_of(uint32_t key, int pass) {
  return kRadixBins - 1 -
         static_cast<int>(key >> digit_shift(pass) & (kRadixBins - 1) & (pass == 2 ? 0x3ff : 0x7ff));
}

// How far the k-th largest key is known, and how many of the keys that agree so far it still takes to reach it.
template <class T>
struct RadixCut {
  uint32_t key;
  T remaining;
};

template <class T>
struct RadixStorage {
  WarpValues<T> sums;
  int bin;
  T remaining;
};

// The next digit of a cut. Thread t holds the counts of bins [t, t + 1) * kBinsPerThread; remaining_of(total)
// is at least 1 and at most the total. All kRadixThreads threads must call it; all get the cut.
template <class T, class RemainingOf>
__device__ __forceinline__ RadixCut<T> next_cut(const T (&counts)[kBinsPerThread], uint32_t prefix, int pass,
                                                RemainingOf remaining_of, RadixStorage<T>& storage) {
  T mine = 0;
#pragma unroll
  for (int i = 0; i < kBinsPerThread; ++i) mine += counts[i];
  T total;
  const T before = block_exclusive_sum(mine, total, storage.sums);
  const T remaining = remaining_of(total);
  if (before < remaining && remaining <= before + mine) {
    T left = remaining - before;
    bool found = false;
#pragma unroll
    for (int i = 0; i < kBinsPerThread; ++i) {
      if (!found && left <= counts[i]) {
        found = true;
        storage.bin = static_cast<int>(threadIdx.x) * kBinsPerThread + i;
        storage.remaining = left;
      }
      if (!found) left -= counts[i];
    }
  }
  __syncthreads();
  const auto digit = static_cast<uint32_t>(kRadixBins - 1 - storage.bin);
  return {prefix | digit << digit_shift(pass), storage.remaining};
}

}  // namespace longhaul::cuda
