// The running softmax of rows whose scores come in pieces, in base 2: a row's maximum and its sum of 2^(score -
// maximum). Prefill, split decoding, scoring and the merge of partial states share it.
#pragma once

#include "cuda/ptx.cuh"

namespace longhaul::cuda {

constexpr float kNoScore = -INFINITY;
constexpr float kLn2 = 0.69314718055994531f;

// State (max, sum) as the logarithm of the sum; -inf when no key was seen.
__device__ __forceinline__ float log2_sum(float max, float sum) {
  return sum == 0 ? kNoScore : max + log2f(sum);
}

// Adds to a state whose maximum was `max`: returns the factor for what was summed before and sets `max` to the
// maximum that terms are to be taken relative to. Where nothing was seen yet that is 0 for the caller's
// subtraction (see `base`).
__device__ __forceinline__ float raise_max(float& max, float candidate, float& base) {
  const float top = fmaxf(max, candidate);
  base = top == kNoScore ? 0.0f : top;
  const float factor = ptx::ex2_approx(max - base);
  max = top;
  return factor;
}

// Over a warp, and over the four lanes that share a row of an mma fragment.
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
  return x;
}
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}
__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// Rows l / 4 and l / 4 + 8 of a 16-row block in mma fragments. The sums are those of the lane's own columns
// until `finish` adds the quad's.
struct FragmentState {
  float max[2] = {kNoScore, kNoScore};
  float sum[2] = {0, 0};

  // Takes in raw scores, turns them into the weights 2^(score * scale - maximum), and gives the factors by
  // which whatever was weighted before has to shrink.
  template <int kColumnTiles>
  __device__ __forceinline__ void add(float (&s)[kColumnTiles][4], float scale, float (&factor)[2]) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float top = kNoScore;
#pragma unroll
      for (int c = 0; c < kColumnTiles; ++c) top = fmaxf(top, fmaxf(s[c][h * 2], s[c][h * 2 + 1]));
      float base;
      factor[h] = raise_max(max[h], quad_max(top) * scale, base);
      float total = 0;
#pragma unroll
      for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& x = s[c][h * 2 + i];
          x = ptx::ex2_approx(fmaf(x, scale, -base));
          total += x;
        }
      }
      sum[h] = fmaf(sum[h], factor[h], total);
    }
  }

  __device__ __forceinline__ void finish() {
    sum[0] = quad_sum(sum[0]);
    sum[1] = quad_sum(sum[1]);
  }
};

// Hides the columns that a row does not see. `column` is the lane's first column, relative to the row's.
template <int kColumnTiles>
__device__ __forceinline__ void hide_columns(float (&s)[kColumnTiles][4], int column, const int (&visible)[2]) {
#pragma unroll
  for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (column + c * 8 + i % 2 >= visible[i / 2]) s[c][i] = kNoScore;
    }
  }
}

}  // namespace longhaul::cuda
