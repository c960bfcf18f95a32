// sample: a chunk of the vocabulary a block. The tokens that stay are always the first ones in one order,
// logits descending and then ids: so top-k, top-p and min-p are cuts in it, found by radix selection.
#include <algorithm>
#include <bit>
#include <cmath>

#include "core/arena.h"
#include "core/random.h"
#include "cuda/element.cuh"
#include "cuda/ops.h"
#include "cuda/sampling.cuh"
#include "cuda/stream.h"

namespace longhaul::cuda {
namespace {

// Rows in flight: they bound the workspace.
constexpr int64_t kRowsInFlight = 64;
// Of the best token's weight. Mass below 2^-44 of it is none; sums of all tokens stay below 2^63.
constexpr int kFractionBits = 44;

// The largest key of each chunk with its lowest id, and empty histograms.
__global__ void __launch_bounds__(kSampleThreads, 1) sample_best(const SampleProblem p) {
  DYNAMIC_SMEM(smem);
  auto& storage = *reinterpret_cast<SampleStorage*>(smem);
  const SampleRow r(p, static_cast<int>(blockIdx.y));
  const int chunk = static_cast<int>(blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x);
  Mass packed = 0;
#pragma unroll
  for (int i = 0; i < kSampleIdsPerThread; ++i) {
    const int32_t id = chunk * kSampleChunk + i * kSampleThreads + thread;
    if (id >= p.vocab) continue;
    packed = max(packed, Mass{order_key(r.logit(id))} << 32 | static_cast<uint32_t>(~id));
  }
  packed = block_max(packed, storage.mass);
  if (thread == 0) p.best[int64_t{r.row} * p.chunks + chunk] = packed;
  if (!r.has_top_k() && !r.has_top_p()) return;
  const int step = p.chunks * kSampleThreads;
  for (int bin = chunk * kSampleThreads + thread; bin < kSampleSteps * kRadixBins; bin += step) {
    r.histogram(0)[bin] = 0;
  }
}

__global__ void __launch_bounds__(kSampleThreads, 1) sample_histogram(const SampleProblem p, const int step) {
  DYNAMIC_SMEM(smem);
  auto& storage = *reinterpret_cast<SampleStorage*>(smem);
  const SampleRow r(p, static_cast<int>(blockIdx.y));
  const bool counts = step < kRadixPasses;
  if (counts ? !r.has_top_k() : !r.has_top_p()) return;
  const BestToken best(r, storage);
  if (best.certain) return;

  const int pass = step % kRadixPasses;
  uint32_t least = 0;  // the k-th largest key, for top-p to weigh what top-k left
  uint32_t prefix = 0;
  if (step == kRadixPasses) {
    if (r.has_top_k()) {
      const RadixCut<Mass> cut = cut_after(r, step - 1, storage);
      least = cut.key;
      if (blockIdx.x == 0 && threadIdx.x == 0) r.state(step - 1) = cut;
    }
  } else if (step > 0) {
    const RadixCut<Mass> cut = cut_after(r, step - 1, storage);
    prefix = cut.key;
    if (!counts && r.has_top_k()) least = r.state(kRadixPasses - 1).key;
    if (blockIdx.x == 0 && threadIdx.x == 0) r.state(step - 1) = cut;
  }

  Mass* histogram = r.histogram(step);
#pragma unroll 1
  for (int i = 0; i < kSampleIdsPerThread; ++i) {
    const int32_t id = static_cast<int32_t>(blockIdx.x) * kSampleChunk + i * kSampleThreads + threadIdx.x;
    if (id >= p.vocab) break;
    const float x = r.logit(id);
    const uint32_t key = order_key(x);
    if (key < least || !agrees(key, prefix, pass)) continue;
    const Mass mass = counts ? 1 : mass_of(r, best.weight(r, x));
    if (mass != 0) atomicAdd(&histogram[bin_of(key, pass)], mass);
  }
}

// The row's cut, and what each chunk has above it and on it.
__global__ void __launch_bounds__(kSampleThreads, 1) sample_weigh(const SampleProblem p) {
  DYNAMIC_SMEM(smem);
  auto& storage = *reinterpret_cast<SampleStorage*>(smem);
  const SampleRow r(p, static_cast<int>(blockIdx.y));
  const BestToken best(r, storage);
  if (best.certain) return;

  SampleCut cut{0, UINT32_MAX};
  if (r.has_top_p()) {
    const RadixCut<Mass> found = cut_after(r, kSampleSteps - 1, storage);
    const Mass tie_mass = mass_of(r, best.weight(r, float_of_key(found.key)));
    // Tied tokens weigh the same: they stay while those before them are below the limit.
    cut = {found.key, static_cast<uint32_t>((found.remaining + tie_mass - 1) / tie_mass)};
  } else if (r.has_top_k()) {
    cut.key = cut_after(r, kRadixPasses - 1, storage).key;
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) p.cut[r.row] = cut;

  Mass mass = 0;
  uint32_t ties = 0;
#pragma unroll 1
  for (int i = 0; i < kSampleIdsPerThread; ++i) {
    const int32_t id = static_cast<int32_t>(blockIdx.x) * kSampleChunk + i * kSampleThreads + threadIdx.x;
    if (id >= p.vocab) break;
    const float x = r.logit(id);
    const uint32_t key = order_key(x);
    if (key < cut.key) continue;
    const float weight = best.weight(r, x);
    if (weight < r.params.min_p) continue;
    if (key == cut.key) {
      ++ties;
    } else {
      mass += mass_of(r, weight);
    }
  }
  mass = block_sum(mass, storage.mass);
  ties = block_sum(ties, storage.ties);
  if (threadIdx.x == 0) {
    const int64_t at = int64_t{r.row} * p.chunks + blockIdx.x;
    p.chunk_mass[at] = mass;
    p.chunk_ties[at] = ties;
  }
}

__device__ __forceinline__ void take(const SampleRow& r, int32_t id) {
  r.p.ids[r.row] = id;
  if (r.p.seen == nullptr) return;
  unsigned char* seen = r.p.seen + r.row * r.p.seen_stride;
  seen[id / 8] = static_cast<unsigned char>(seen[id / 8] | 1u << id % 8);
}

// The block that has the best token takes it.
__device__ __forceinline__ void draw_best(const SampleRow& r, int32_t best) {
  if (r.p.probabilities != nullptr) {
    float* probabilities = r.p.probabilities + r.row * r.p.probabilities_stride;
#pragma unroll 1
    for (int i = 0; i < kSampleIdsPerThread; ++i) {
      const int32_t id = static_cast<int32_t>(blockIdx.x) * kSampleChunk + i * kSampleThreads + threadIdx.x;
      if (id < r.p.vocab) probabilities[id] = id == best ? 1.0f : 0.0f;
    }
  }
  if (best / kSampleChunk == static_cast<int32_t>(blockIdx.x) && threadIdx.x == 0) take(r, best);
}

// The inverse of the cumulative distribution, in the order of ids: the block in whose chunk it falls takes the
// token.
__global__ void __launch_bounds__(kSampleThreads, 1) sample_draw(const SampleProblem p) {
  DYNAMIC_SMEM(smem);
  auto& storage = *reinterpret_cast<SampleStorage*>(smem);
  const SampleRow r(p, static_cast<int>(blockIdx.y));
  const BestToken best(r, storage);
  if (best.certain) return draw_best(r, best.id);
  const SampleCut cut = p.cut[r.row];

  Mass mass_before = 0;  // in front of this chunk
  Mass mass_all = 0;
  uint32_t ties_before = 0;
  uint32_t ties_all = 0;
  for (int chunk = static_cast<int>(threadIdx.x); chunk < p.chunks; chunk += kSampleThreads) {
    const int64_t at = int64_t{r.row} * p.chunks + chunk;
    const bool before = chunk < static_cast<int>(blockIdx.x);
    mass_all += p.chunk_mass[at];
    ties_all += p.chunk_ties[at];
    if (before) mass_before += p.chunk_mass[at];
    if (before) ties_before += p.chunk_ties[at];
  }
  mass_all = block_sum(mass_all, storage.mass);
  mass_before = block_sum(mass_before, storage.mass);
  ties_all = block_sum(ties_all, storage.ties);
  ties_before = block_sum(ties_before, storage.ties);
  const Mass tie_mass = ties_all > 0 ? mass_of(r, best.weight(r, float_of_key(cut.key))) : 0;
  const Mass total = mass_all + min(ties_all, cut.ties) * tie_mass;

  // Neighbours in the order of ids are a thread's own.
  const int32_t first = static_cast<int32_t>(blockIdx.x) * kSampleChunk + threadIdx.x * kSampleIdsPerThread;
  float weights[kSampleIdsPerThread];  // 0: dropped
  uint32_t is_tie = 0;                 // a bit a token
  Mass mass = 0;
#pragma unroll
  for (int i = 0; i < kSampleIdsPerThread; ++i) {
    weights[i] = 0;
    if (first + i >= p.vocab) continue;
    const float x = r.logit(first + i);
    const uint32_t key = order_key(x);
    const float weight = best.weight(r, x);
    if (key < cut.key || weight < r.params.min_p) continue;
    weights[i] = weight;
    if (key == cut.key) {
      is_tie |= 1u << i;
    } else {
      mass += mass_of(r, weight);
    }
  }
  Mass unused_mass;
  uint32_t unused_ties;
  mass = mass_before + block_exclusive_sum(mass, unused_mass, storage.mass);
  uint32_t tie_rank =
      ties_before + block_exclusive_sum(static_cast<uint32_t>(__popc(is_tie)), unused_ties, storage.ties);

  const double u = uniform01(r.params.seed, r.params.position);
  constexpr double kDraws = 9007199254740992.0;  // 2^53
  // floor(u * total), exactly.
  const Mass target = __umul64hi(static_cast<Mass>(u * kDraws) << 11, total);
  if (threadIdx.x == 0) storage.drawn = -1;
  __syncthreads();
  Mass sum = mass + min(tie_rank, cut.ties) * tie_mass;
#pragma unroll
  for (int i = 0; i < kSampleIdsPerThread; ++i) {
    if ((is_tie >> i & 1) != 0 && tie_rank++ >= cut.ties) weights[i] = 0;
    const Mass here = mass_of(r, weights[i]);
    if (sum <= target && target < sum + here) storage.drawn = first + i;
    sum += here;
  }
  if (p.probabilities != nullptr) {
    float* probabilities = p.probabilities + r.row * p.probabilities_stride;
    const double whole = static_cast<double>(total) / static_cast<double>(p.unit);
#pragma unroll
    for (int i = 0; i < kSampleIdsPerThread; ++i) {
      if (first + i < p.vocab)
        probabilities[first + i] = static_cast<float>(static_cast<double>(weights[i]) / whole);
    }
  }
  __syncthreads();  // `seen` is read
  if (threadIdx.x == 0 && storage.drawn >= 0) take(r, storage.drawn);
}

struct SampleWorkspace {
  int64_t rows;
  int64_t chunks;
  Mass* best;
  Mass* histograms;
  RadixCut<Mass>* states;
  SampleCut* cut;
  Mass* chunk_mass;
  uint32_t* chunk_ties;

  static SampleWorkspace lay_out(Arena& arena, const SampleArgs& a) {
    SampleWorkspace w{};
    w.rows = std::min<int64_t>(a.logits.shape[0], kRowsInFlight);
    w.chunks = divide_up(a.logits.shape[1], kSampleChunk);
    const auto take = [&](auto*& out, int64_t per_row) {
      using T = std::remove_reference_t<decltype(*out)>;
      out = static_cast<T*>(arena.take_bytes(static_cast<size_t>(w.rows * per_row) * sizeof(T)));
    };
    take(w.best, w.chunks);
    take(w.histograms, kSampleSteps * kRadixBins);
    take(w.states, kSampleSteps);
    take(w.cut, 1);
    take(w.chunk_mass, w.chunks);
    take(w.chunk_ties, w.chunks);
    return w;
  }
};

// All rows of the parameters, which are in flight together.
Status sample_rows(CudaStream& cuda, const SampleProblem& params, int64_t rows) {
  const dim3 grid = grid_of(params.chunks, rows);
  const auto run = [&](auto kernel, auto... more) {
    return cuda.launched(
        launch(kernel, grid, dim3(kSampleThreads), sizeof(SampleStorage), cuda.handle(), params, more...),
        "sample");
  };
  LONGHAUL_TRY(run(sample_best));
  for (int step = 0; step < kSampleSteps; ++step) LONGHAUL_TRY(run(sample_histogram, step));
  LONGHAUL_TRY(run(sample_weigh));
  return run(sample_draw);
}

}  // namespace

size_t sample_workspace(const SampleArgs& a) {
  Arena arena;
  SampleWorkspace::lay_out(arena, a);
  return arena.used();
}

Status sample(Stream& stream, const SampleArgs& a, Workspace workspace) {
  CudaStream& cuda = cuda_stream(stream);
  Arena arena(workspace.data);
  const SampleWorkspace w = SampleWorkspace::lay_out(arena, a);
  LONGHAUL_ASSERT(arena.used() <= workspace.bytes);
  const int64_t rows = a.logits.shape[0];
  const int64_t vocab = a.logits.shape[1];
  const int fraction_bits = std::min<int>(kFractionBits, 63 - std::bit_width(static_cast<uint64_t>(vocab)));
  for (int64_t row = 0; row < rows; row += kRowsInFlight) {
    const SampleProblem params{
        a.logits.as<float>() + row * a.logits.stride[0],
        a.params + row,
        a.seen ? a.seen.as<unsigned char>() + row * a.seen.stride[0] : nullptr,
        a.ids.as<int32_t>() + row,
        a.probabilities ? a.probabilities.as<float>() + row * a.probabilities.stride[0] : nullptr,
        a.logits.stride[0],
        a.seen.stride[0],
        a.probabilities.stride[0],
        static_cast<int32_t>(vocab),
        static_cast<int>(w.chunks),
        std::ldexp(1.0f, fraction_bits),
        w.best,
        w.histograms,
        w.states,
        w.cut,
        w.chunk_mass,
        w.chunk_ties};
    LONGHAUL_TRY(sample_rows(cuda, params, std::min<int64_t>(rows - row, kRowsInFlight)));
  }
  return {};
}

}  // namespace longhaul::cuda
