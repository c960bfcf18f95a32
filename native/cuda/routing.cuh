// Routers inside a block: gate logits of a few rows, then each row's weights by one warp. Decisions are made in
// double: one that falls another way than the formula's moves the output by a third.
#pragma once

#include "core/routing.h"
#include "cuda/block_reduce.cuh"
#include "cuda/gemm_simt.cuh"

namespace longhaul::cuda {

constexpr int kRouterWarps = 8;
constexpr int kRouterThreads = kRouterWarps * kWarpThreads;

// Expert e is lane e % 32's, in its slot e / 32.
constexpr int kLaneExperts = kMaxExperts / kWarpThreads;

template <int kRows>
struct RouterStorage {
  float partial[kRows][kRouterWarps][kMaxExperts];
  float logits[kRows][kMaxExperts];
  double p[kRows][kMaxExperts];
};

// storage.logits of up to kRows rows of x: warps share K, so that one row is not one warp's long way. The order
// of a sum depends on the number of columns alone. All threads of the block call it.
template <int kRows, class X>
__device__ __forceinline__ void gate_logits(const X* const (&x)[kRows], const float* gate, int experts,
                                            int cols, bool x_aligned, RouterStorage<kRows>& storage) {
  constexpr int kCount = 4;   // columns of a thread at once
  constexpr int kAtOnce = 4;  // experts
  const int lane = threadIdx.x % kWarpThreads, warp = threadIdx.x / kWarpThreads;
  const bool gate_aligned = cols % kCount == 0;
  for (int first = 0; first < experts; first += kAtOnce) {
    float sums[kRows][kAtOnce] = {};
    for (int k = threadIdx.x * kCount; k < cols; k += kRouterThreads * kCount) {
      float values[kRows][kCount];
#pragma unroll
      for (int r = 0; r < kRows; ++r) load_x_floats(x[r], k, cols, x_aligned, values[r]);
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        // What is past the last expert reads it again and is not used.
        float weight[kCount];
        load_x_floats(gate + int64_t{min(first + j, experts - 1)} * cols, k, cols, gate_aligned, weight);
#pragma unroll
        for (int r = 0; r < kRows; ++r)
#pragma unroll
          for (int n = 0; n < kCount; ++n) sums[r][j] = fmaf(values[r][n], weight[n], sums[r][j]);
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const float sum = warp_sum(sums[r][j]);
        if (lane == 0 && first + j < experts) storage.partial[r][warp][first + j] = sum;
      }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kRows * experts; i += kRouterThreads) {
    const int r = i / experts, e = i % experts;
    float sum = 0;
    for (int w = 0; w < kRouterWarps; ++w) sum += storage.partial[r][w][e];
    storage.logits[r][e] = sum;
  }
  __syncthreads();
}

struct RoutedExpert {
  double p;
  double weight;
  bool kept;
};

// The entropy of equal probabilities, or 1 where it is not divided by.
__device__ __forceinline__ double entropy_divisor(int experts, const RouterSettings& r) {
  if (!r.entropy_normalized) return 1;
  const double d = r.entropy_index - 1;
  const double log_experts = log(static_cast<double>(experts));
  return r.entropy_type == EntropyType::kRenyi || d == 0 ? log_experts : -expm1(-d * log_experts) / d;
}

constexpr double kRenyiEps = 1e-10;  // of the published code

// What expert `p` adds to the sum that the entropy is made of.
__device__ __forceinline__ double entropy_term(double p, const RouterSettings& r) {
  const double d = r.entropy_index - 1;
  const bool stable = r.entropy_mode == EntropyMode::kStable;
  const double t = stable ? p : p + r.entropy_eps;
  if (t <= 0) return 0;
  const double log_t = log(t);
  if (d == 0) return -t * log_t;
  return stable ? -t * expm1(d * log_t) / d : exp(r.entropy_index * log_t);
}

// One warp's row: weights from logits. `p` is shared memory for its probabilities. Returns the entropy in all
// lanes.
__device__ __forceinline__ double route_warp(const float* logits, int experts, const RouterSettings& r,
                                             double* p, RoutedExpert (&out)[kLaneExperts]) {
  const int lane = threadIdx.x % kWarpThreads;
  float most = -__int_as_float(0x7f800000);
#pragma unroll
  for (int i = 0; i < kLaneExperts; ++i) {
    const int e = lane + i * kWarpThreads;
    if (e < experts) most = logits[e] > most ? logits[e] : most;
  }
  most = warp_max(most);
  double total = 0;
#pragma unroll
  for (int i = 0; i < kLaneExperts; ++i) {
    const int e = lane + i * kWarpThreads;
    out[i].p = e < experts ? exp(static_cast<double>(logits[e]) - static_cast<double>(most)) : 0;
    total += out[i].p;
  }
  total = warp_sum(total);
  double sum = 0;
#pragma unroll
  for (int i = 0; i < kLaneExperts; ++i) {
    const int e = lane + i * kWarpThreads;
    out[i].p /= total;
    p[e] = out[i].p;
    if (e < experts) sum += entropy_term(out[i].p, r);
  }
  sum = warp_sum(sum);
  double entropy = 0;
  if (experts > 1) {
    const double d = r.entropy_index - 1;
    if (d != 0 && r.entropy_mode == EntropyMode::kReference)
      sum = r.entropy_type == EntropyType::kRenyi ? log(sum + kRenyiEps) / -d : (1 - sum) / d;
    entropy = sum / entropy_divisor(experts, r);
  }
  const bool soft = r.entropy_threshold < 1 && entropy > r.entropy_threshold;
  __syncwarp();
  double kept = 0;
#pragma unroll
  for (int i = 0; i < kLaneExperts; ++i) {
    const int e = lane + i * kWarpThreads;
    // The experts before this one in descending order, equals by index.
    int rank = 0;
    double before = 0;
    for (int f = 0; f < experts; ++f) {
      if (p[f] > out[i].p || (p[f] == out[i].p && f < e)) {
        ++rank;
        before += p[f];
      }
    }
    const bool inside = r.include_crossing ? before < r.top_p : before + out[i].p <= r.top_p;
    out[i].kept = e < experts && (soft || inside || rank < r.keep_top_k);
    if (out[i].kept) kept += out[i].p;
  }
  kept = warp_sum(kept);
#pragma unroll
  for (int i = 0; i < kLaneExperts; ++i)
    out[i].weight = !out[i].kept ? 0 : r.renormalize ? out[i].p / kept : out[i].p;
  return entropy;
}

}  // namespace longhaul::cuda
