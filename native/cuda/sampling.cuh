// What the kernels of `sample` share: a row's logits as they see them, their weights, and the cuts of top-k and
// top-p.
//
// Weights are integers, multiples of a fixed fraction of the best token's: their sums are exact, so that
// neither the order of atomics nor the shape of a reduction can change a draw.
#pragma once

#include "core/ops.h"
#include "cuda/radix_select.cuh"

namespace longhaul::cuda {

constexpr int kSampleThreads = kRadixThreads;
constexpr int kSampleIdsPerThread = 8;  // a whole byte of `seen`
constexpr int kSampleChunk = kSampleThreads * kSampleIdsPerThread;

using Mass = unsigned long long;

// Histograms in the order in which they are made: the digits of top-k, which counts tokens, then those of
// top-p, which weighs them.
constexpr int kSampleSteps = 2 * kRadixPasses;

// Tokens that stay: keys above `key`, and the first `ties` with that key.
struct SampleCut {
  uint32_t key;
  uint32_t ties;
};

struct SampleProblem {
  const float* logits;
  const SampleParams* params;  // of the first row in flight, as all below
  unsigned char* seen;         // null: none
  int32_t* ids;
  float* probabilities;  // null: none
  int64_t logits_stride;
  int64_t seen_stride;
  int64_t probabilities_stride;
  int32_t vocab;
  int chunks;
  float unit;  // weights are multiples of its inverse; a power of two
  // Workspace, of each row.
  Mass* best;              // [chunks], packed (key, ~id)
  Mass* histograms;        // [steps, bins]
  RadixCut<Mass>* states;  // [steps], the cut after each
  SampleCut* cut;          // one
  Mass* chunk_mass;        // [chunks], of tokens above the cut
  uint32_t* chunk_ties;    // [chunks], tokens with the cut's key
};

struct SampleStorage {
  RadixStorage<Mass> radix;
  WarpValues<Mass> mass;
  WarpValues<uint32_t> ties;
  int drawn;
};

// One row of a block.
struct SampleRow {
  const SampleProblem& p;
  int row;
  SampleParams params;
  const float* logits;
  const unsigned char* seen;

  __device__ __forceinline__ SampleRow(const SampleProblem& of, int index)
      : p(of), row(index), params(of.params[index]), logits(of.logits + index * of.logits_stride) {
    seen = p.seen != nullptr && params.repetition_penalty != 1 ? p.seen + row * p.seen_stride : nullptr;
  }

  // After the penalty. What is no number is never drawn. Rounded here: fused with what a kernel does next, the
  // product would be another number in each kernel, and the best token's distance to itself not 0.
  __device__ __forceinline__ float logit(int32_t id) const {
    float x = logits[id];
    if (x != x) x = -INFINITY;
    if (seen != nullptr && (seen[id / 8] >> id % 8 & 1) != 0) {
      x = x > 0 ? x / params.repetition_penalty : __fmul_rn(x, params.repetition_penalty);
    }
    return x;
  }

  __device__ __forceinline__ bool has_top_k() const { return params.top_k > 0 && params.top_k < p.vocab; }
  __device__ __forceinline__ bool has_top_p() const { return params.top_p < 1; }

  __device__ __forceinline__ Mass* histogram(int step) const {
    return p.histograms + (int64_t{row} * kSampleSteps + step) * kRadixBins;
  }
  __device__ __forceinline__ RadixCut<Mass>& state(int step) const {
    return p.states[row * kSampleSteps + step];
  }
};

// The best token of a row, by the whole block.
struct BestToken {
  float logit;
  int32_t id;
  bool certain;  // drawn whatever the random number: greedy, or a largest logit that has no softmax

  __device__ __forceinline__ BestToken(const SampleRow& r, SampleStorage& storage) {
    Mass packed = 0;
    for (int chunk = static_cast<int>(threadIdx.x); chunk < r.p.chunks; chunk += kSampleThreads) {
      packed = max(packed, r.p.best[int64_t{r.row} * r.p.chunks + chunk]);
    }
    packed = block_max(packed, storage.mass);
    logit = float_of_key(static_cast<uint32_t>(packed >> 32));
    id = static_cast<int32_t>(~static_cast<uint32_t>(packed));
    certain = r.params.temperature <= 0 || fabsf(logit) == INFINITY;
  }

  // exp of the distance to the best, after the temperature.
  __device__ __forceinline__ float weight(const SampleRow& r, float x) const {
    return expf((x - logit) / r.params.temperature);
  }
};

__device__ __forceinline__ Mass mass_of(const SampleRow& r, float weight) {
  return static_cast<Mass>(weight * r.p.unit);
}

// The cut that the histogram of `step` adds to; by the whole block.
__device__ __forceinline__ RadixCut<Mass> cut_after(const SampleRow& r, int step, SampleStorage& storage) {
  const Mass* histogram = r.histogram(step) + threadIdx.x * kBinsPerThread;
  Mass counts[kBinsPerThread];
#pragma unroll
  for (int i = 0; i < kBinsPerThread; ++i) counts[i] = histogram[i];
  const int pass = step % kRadixPasses;
  const uint32_t prefix = pass == 0 ? 0 : r.state(step - 1).key;
  const auto remaining_of = [&](Mass total) -> Mass {
    if (pass > 0) return r.state(step - 1).remaining;
    if (step == 0) return static_cast<Mass>(r.params.top_k);
    // A token stays while the mass before it is below this; the best stays anyhow.
    const double limit = ceil(static_cast<double>(r.params.top_p) * static_cast<double>(total));
    return limit < 1 ? 1 : min(static_cast<Mass>(limit), total);
  };
  return next_cut(counts, prefix, pass, remaining_of, storage.radix);
}

}  // namespace longhaul::cuda
