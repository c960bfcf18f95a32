// The way out of a product's sums: bias, accumulation, rounding, stores as wide as the rows' alignment allows.
#pragma once

#include "cuda/device.cuh"
#include "cuda/gemm_problem.h"

namespace longhaul::cuda {

__device__ __forceinline__ void store_sum(const GemmOut& out, int row, int output, float sum) {
  if (out.bias != nullptr) sum += out.bias[output];
  const int64_t at = row * out.stride + output;
  if (out.bf16) {
    auto* p = static_cast<__nv_bfloat16*>(out.data) + at;
    if (out.accumulate) sum += __bfloat162float(*p);
    *p = __float2bfloat16_rn(sum);
  } else {
    float* p = static_cast<float*>(out.data) + at;
    *p = out.accumulate ? *p + sum : sum;
  }
}

// Two neighbours, `output` even: one store where rows are aligned to it.
__device__ __forceinline__ void store_sums(const GemmOut& out, int row, int output, float first, float second) {
  if (output + 1 >= out.outputs || out.alignment < (out.bf16 ? 4 : 8)) {
    if (output < out.outputs) store_sum(out, row, output, first);
    if (output + 1 < out.outputs) store_sum(out, row, output + 1, second);
    return;
  }
  if (out.bias != nullptr) {
    first += out.bias[output];
    second += out.bias[output + 1];
  }
  const int64_t at = row * out.stride + output;
  if (out.bf16) {
    auto* p = reinterpret_cast<__nv_bfloat162*>(static_cast<__nv_bfloat16*>(out.data) + at);
    if (out.accumulate) {
      const float2 old = __bfloat1622float2(*p);
      first += old.x;
      second += old.y;
    }
    *p = __floats2bfloat162_rn(first, second);
  } else {
    auto* p = reinterpret_cast<float2*>(static_cast<float*>(out.data) + at);
    if (out.accumulate) {
      const float2 old = *p;
      first += old.x;
      second += old.y;
    }
    *p = make_float2(first, second);
  }
}

__device__ __forceinline__ uint32_t bf16_pair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  uint32_t bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}

// Lane t of each four holds words[j] = word t of line j; afterwards words[j] = word j of line t.
__device__ __forceinline__ void transpose_quad(uint32_t (&words)[4]) {
  const bool odd = threadIdx.x & 1, upper = threadIdx.x & 2;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const uint32_t got = __shfl_xor_sync(0xffffffffu, odd ? words[i] : words[i + 1], 1);
    words[i] = odd ? got : words[i];
    words[i + 1] = odd ? words[i + 1] : got;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t got = __shfl_xor_sync(0xffffffffu, upper ? words[i] : words[i + 2], 2);
    words[i] = upper ? got : words[i];
    words[i + 2] = upper ? words[i + 2] : got;
  }
}

// A row of four neighbouring accumulator tiles of mma or wgmma: the lane holds sums[j] of outputs `output` + 8
// j + 2 t and the next, t = lane % 4. All lanes of the warp call this, those of rows past the end too.
__device__ __forceinline__ void store_strip(const GemmOut& out, int row, int output,
                                            const float (&sums)[4][2]) {
  const int t = threadIdx.x % 4;
  if (!out.bf16 || out.accumulate || out.alignment < 16 || output + 32 > out.outputs) {
    if (row < out.rows) {
#pragma unroll
      for (int j = 0; j < 4; ++j) store_sums(out, row, output + 8 * j + 2 * t, sums[j][0], sums[j][1]);
    }
    return;
  }
  uint32_t words[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    float2 pair = make_float2(sums[j][0], sums[j][1]);
    if (out.bias != nullptr) {
      pair.x += out.bias[output + 8 * j + 2 * t];
      pair.y += out.bias[output + 8 * j + 2 * t + 1];
    }
    words[j] = bf16_pair(pair.x, pair.y);
  }
  transpose_quad(words);
  if (row < out.rows)
    store16(static_cast<__nv_bfloat16*>(out.data) + row * out.stride + output + 8 * t,
            make_uint4(words[0], words[1], words[2], words[3]));
}

}  // namespace longhaul::cuda
