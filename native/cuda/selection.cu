// select: the cut is found in three launches, each a histogram over all blocks; the fourth writes the kept
// rows. Every block finds the digit of the launch before by itself from the histograms of all: no launch, no
// memset and no atomics on global memory are needed for that.
#include <algorithm>

#include "core/arena.h"
#include "cuda/cache_rows.cuh"
#include "cuda/element.cuh"
#include "cuda/ops.h"
#include "cuda/radix_select.cuh"
#include "cuda/stream.h"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = kRadixThreads;
// Rows of one block: few blocks make few histograms to add up. Counts are 16 bits wide.
constexpr int64_t kLeastChunk = 4096;
constexpr int64_t kMostChunk = 32768;
constexpr int64_t kBlocks = 64;
constexpr int kRowsPerThread = 8;  // of a tile that is written

struct SelectParams {
  const CacheView* view;
  const float* scores;  // null: the newer row is the better one
  int32_t* kept;
  int32_t* kept_count;
  uint16_t* histograms;           // [heads, chunks, bins], of the first and the last pass
  uint16_t* histograms_next;      // of the second pass
  RadixCut<uint32_t>* cuts;       // [heads], after the first digit; a group's is its first head's
  RadixCut<uint32_t>* cuts_next;  // after the second digit
  unsigned long long* failure;
  int64_t scores_stride;
  int64_t kept_stride;
  int64_t budget;
  int32_t capacity;
  int32_t drop_last;
  int32_t protect_first;
  int32_t protect_last;
  int kv_heads;
  int chunk;
  int chunks;  // of a head, at most
  bool per_head;
  bool only_scored;
};

struct SelectWorkspace {
  int64_t chunk;
  int64_t chunks;
  uint16_t* histograms[2];
  RadixCut<uint32_t>* cuts[2];

  static SelectWorkspace lay_out(Arena& arena, const SelectArgs& a) {
    const int64_t capacity = a.kept.shape[1];
    SelectWorkspace w{};
    w.chunk =
        std::clamp(round_up(divide_up(capacity * a.kv_heads, kBlocks), kLeastChunk), kLeastChunk, kMostChunk);
    w.chunks = divide_up(capacity, w.chunk);
    // Never less for a larger capacity, although chunks grow with it.
    const int64_t blocks = std::min(a.kv_heads * divide_up(capacity, kLeastChunk),
                                    a.kv_heads * (divide_up(capacity, kMostChunk) + 1) + kBlocks);
    for (int i = 0; i < 2; ++i) {
      w.histograms[i] =
          static_cast<uint16_t*>(arena.take_bytes(static_cast<size_t>(blocks) * kRadixBins * sizeof(uint16_t)));
      w.cuts[i] = static_cast<RadixCut<uint32_t>*>(
          arena.take_bytes(static_cast<size_t>(a.kv_heads) * sizeof(RadixCut<uint32_t>)));
    }
    return w;
  }
};

struct SelectStorage {
  RadixStorage<uint32_t> radix;
  WarpValues<uint32_t> sums;
  alignas(16) uint32_t counts[kRadixBins];
};

// The rows of one head: those in [begin, end) compete, the others are protected.
struct Candidates {
  int32_t rows;
  int32_t begin;
  int32_t end;
};

__device__ __forceinline__ Candidates candidates_of(const SelectParams& p, int head) {
  const int32_t rows = min(max(p.view->length[head] - p.drop_last, 0), p.capacity);
  const int32_t begin = min(p.protect_first, rows);
  return {rows, begin, max(rows - min(p.protect_last, rows), begin)};
}

__device__ __forceinline__ uint32_t key_of(const SelectParams& p, int head, const Candidates& c, int32_t row) {
  if (p.scores != nullptr) return order_key(p.scores[head * p.scores_stride + row]);
  // Without scores the distance from the newest row counts, which is comparable between ragged heads.
  return 0x80000000u - static_cast<uint32_t>(c.rows - row);
}

// The heads whose rows compete with each other, and for how many places.
struct Group {
  int first;
  int last;
  int64_t open;   // places for candidates
  bool all_stay;  // the rows fit
};

// By a whole warp.
__device__ __forceinline__ Group group_of(const SelectParams& p, int head) {
  Group g{p.per_head ? head : 0, p.per_head ? head + 1 : p.kv_heads, 0, false};
  int64_t rows = 0;
  int64_t competing = 0;
  for (int h = g.first + static_cast<int>(threadIdx.x) % kWarpThreads; h < g.last; h += kWarpThreads) {
    const Candidates c = candidates_of(p, h);
    rows += c.rows;
    competing += c.end - c.begin;
  }
  rows = warp_sum(rows);
  competing = warp_sum(competing);
  const int64_t places = p.budget * (g.last - g.first);
  g.all_stay = rows <= places;
  g.open = max(places - (rows - competing), int64_t{0});
  return g;
}

__device__ __forceinline__ uint16_t* histogram_of(const SelectParams& p, int pass, int head, int chunk) {
  return (pass == 1 ? p.histograms_next : p.histograms) + (int64_t{head} * p.chunks + chunk) * kRadixBins;
}

// Where the cut after digit `pass` is kept.
__device__ __forceinline__ RadixCut<uint32_t>& kept_cut(const SelectParams& p, int pass, const Group& g) {
  return (pass == 0 ? p.cuts : p.cuts_next)[g.first];
}

// The cut of a group after digit `pass`, from the histograms of that pass.
__device__ __forceinline__ RadixCut<uint32_t> group_cut(const SelectParams& p, const Group& g, int pass,
                                                        RadixStorage<uint32_t>& storage) {
  uint32_t counts[kBinsPerThread] = {};
  for (int head = g.first; head < g.last; ++head) {
    const int chunks = (candidates_of(p, head).rows + p.chunk - 1) / p.chunk;
    for (int chunk = 0; chunk < chunks; ++chunk) {
      const Bytes16 pairs = load16(histogram_of(p, pass, head, chunk) + threadIdx.x * kBinsPerThread);
      const uint32_t words[] = {pairs.x, pairs.y, pairs.z, pairs.w};
#pragma unroll
      for (int i = 0; i < kBinsPerThread; ++i) counts[i] += words[i / 2] >> i % 2 * 16 & 0xffff;
    }
  }
  const RadixCut<uint32_t> before =
      pass == 0 ? RadixCut<uint32_t>{0, static_cast<uint32_t>(g.open)} : kept_cut(p, pass - 1, g);
  return next_cut(
      counts, before.key, pass, [&](uint32_t) { return before.remaining; }, storage);
}

// Grid (chunks, heads). Counts the digit of this pass among the chunk's candidates that agree with the cut so
// far.
__global__ void __launch_bounds__(kThreads, 1) select_histogram(const SelectParams p, const int pass) {
  DYNAMIC_SMEM(smem);
  auto& storage = *reinterpret_cast<SelectStorage*>(smem);
  const int thread = static_cast<int>(threadIdx.x);
  const int head = static_cast<int>(blockIdx.y);
  const Group g = group_of(p, head);
  if (g.all_stay || g.open == 0) return;
  uint32_t prefix = 0;
  if (pass > 0) {
    const RadixCut<uint32_t> cut = group_cut(p, g, pass - 1, storage.radix);
    prefix = cut.key;
    if (blockIdx.x == 0 && head == g.first && thread == 0) kept_cut(p, pass - 1, g) = cut;
  }
  for (int bin = thread; bin < kRadixBins; bin += kThreads) storage.counts[bin] = 0;
  __syncthreads();
  const Candidates c = candidates_of(p, head);
  const int32_t chunk_begin = static_cast<int32_t>(blockIdx.x) * p.chunk;
  const int32_t begin = max(chunk_begin, c.begin);
  const int32_t end = min(chunk_begin + p.chunk, c.end);
  for (int32_t row = begin + thread; row < end; row += kThreads) {
    const uint32_t key = key_of(p, head, c, row);
    if (agrees(key, prefix, pass)) atomicAdd(&storage.counts[bin_of(key, pass)], 1u);
  }
  __syncthreads();
  const uint32_t* counts = storage.counts + thread * kBinsPerThread;
  store16(histogram_of(p, pass, head, static_cast<int>(blockIdx.x)) + thread * kBinsPerThread,
          {counts[0] | counts[1] << 16, counts[2] | counts[3] << 16, counts[4] | counts[5] << 16,
           counts[6] | counts[7] << 16});
}

// Rows with the cut's key in the heads of the group in front of this one.
__device__ __forceinline__ uint32_t ties_before(const SelectParams& p, const Group& g, int head, uint32_t key,
                                                WarpValues<uint32_t>& sums) {
  uint32_t ties = 0;
  for (int h = g.first; h < head; ++h) {
    const int chunks = (candidates_of(p, h).rows + p.chunk - 1) / p.chunk;
    for (int chunk = static_cast<int>(threadIdx.x); chunk < chunks; chunk += kThreads) {
      ties += histogram_of(p, kRadixPasses - 1, h, chunk)[bin_of(key, kRadixPasses - 1)];
    }
  }
  return block_sum(ties, sums);
}

// A block writes the rows of a head, a tile after the other.
__global__ void __launch_bounds__(kThreads, 1) select_write(const SelectParams p) {
  DYNAMIC_SMEM(smem);
  auto& storage = *reinterpret_cast<SelectStorage*>(smem);
  const int thread = static_cast<int>(threadIdx.x);
  const int head = static_cast<int>(blockIdx.x);
  const Group g = group_of(p, head);
  const Candidates c = candidates_of(p, head);
  int32_t begin = c.begin;    // of the rows that have to be above the cut
  uint32_t key = UINT32_MAX;  // no score's key: that of +inf is the largest
  uint32_t share = 0;         // how many with the cut's key stay, the first ones
  if (g.all_stay && p.only_scored) {
    key = 0;
  } else if (g.all_stay) {
    begin = c.end;
  } else if (g.open > 0) {
    const RadixCut<uint32_t> cut = group_cut(p, g, kRadixPasses - 1, storage.radix);
    const uint32_t before = ties_before(p, g, head, cut.key, storage.sums);
    key = cut.key;
    share = cut.remaining > before ? cut.remaining - before : 0;
    if (p.only_scored && key == 0) share = 0;  // the key of NaN
  }

  int32_t* kept = p.kept + head * p.kept_stride;
  uint32_t above = 0;  // rows that stay whatever the ties do, up to here
  uint32_t ties = 0;
  for (int32_t tile = 0; tile < c.rows; tile += kThreads * kRowsPerThread) {
    const int32_t first = tile + thread * kRowsPerThread;
    uint32_t is_above = 0;  // a bit a row
    uint32_t is_tie = 0;
#pragma unroll
    for (int i = 0; i < kRowsPerThread; ++i) {
      const int32_t row = first + i;
      if (row >= c.rows) continue;
      if (row < begin || row >= c.end) {
        is_above |= 1u << i;
      } else {
        const uint32_t row_key = key_of(p, head, c, row);
        if (row_key > key) is_above |= 1u << i;
        if (row_key == key) is_tie |= 1u << i;
      }
    }
    // Both counts in one sum: a tile has fewer than 2^16 rows.
    const auto mine = static_cast<uint32_t>(__popc(is_above)) | static_cast<uint32_t>(__popc(is_tie)) << 16;
    uint32_t total;
    const uint32_t before = block_exclusive_sum(mine, total, storage.sums);
    uint32_t above_before = above + (before & 0xffff);
    uint32_t tie_rank = ties + (before >> 16);
#pragma unroll
    for (int i = 0; i < kRowsPerThread; ++i) {
      const bool tie = (is_tie >> i & 1) != 0;
      const bool stays = (is_above >> i & 1) != 0 || (tie && tie_rank < share);
      if (stays) kept[above_before + min(tie_rank, share)] = first + i;
      if (tie) ++tie_rank;
      if ((is_above >> i & 1) != 0) ++above_before;
    }
    above += total & 0xffff;
    ties += total >> 16;
  }
  if (thread != 0) return;
  p.kept_count[head] = static_cast<int32_t>(above + min(ties, share));
  const int32_t rows = p.view->length[head] - p.drop_last;
  if (rows > p.capacity) {
    report_failure(p.failure, failure_word(FailureKind::kRowsBeyondCapacity, head, rows, p.capacity));
  }
}

}  // namespace

size_t select_workspace(const SelectArgs& a) {
  Arena arena;
  SelectWorkspace::lay_out(arena, a);
  return arena.used();
}

Status select(Stream& stream, const SelectArgs& a, Workspace workspace) {
  CudaStream& cuda = cuda_stream(stream);
  Arena arena(workspace.data);
  const SelectWorkspace w = SelectWorkspace::lay_out(arena, a);
  LONGHAUL_ASSERT(arena.used() <= workspace.bytes);
  const SelectParams params{a.view,
                            a.scores.as<float>(),
                            a.kept.as<int32_t>(),
                            a.kept_count.as<int32_t>(),
                            w.histograms[0],
                            w.histograms[1],
                            w.cuts[0],
                            w.cuts[1],
                            cuda.failure(),
                            a.scores.stride[0],
                            a.kept.stride[0],
                            a.budget,
                            static_cast<int32_t>(a.kept.shape[1]),
                            a.drop_last,
                            a.protect_first,
                            a.protect_last,
                            a.kv_heads,
                            static_cast<int>(w.chunk),
                            static_cast<int>(w.chunks),
                            a.level == SelectLevel::kHead,
                            a.only_scored};
  for (int pass = 0; pass < kRadixPasses && w.chunks > 0; ++pass) {
    LONGHAUL_TRY(cuda.launched(launch(select_histogram, grid_of(w.chunks, a.kv_heads), dim3(kThreads),
                                      sizeof(SelectStorage), cuda.handle(), params, pass),
                               "select"));
  }
  return cuda.launched(
      launch(select_write, grid_of(a.kv_heads), dim3(kThreads), sizeof(SelectStorage), cuda.handle(), params),
      "select");
}

}  // namespace longhaul::cuda
