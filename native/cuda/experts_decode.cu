// LoRA experts of decode rows: each half is one launch over all rows, parts and adapters of the step. Nothing
// is sorted by expert: up to a few hundred ranks a row's dot products are too few for that to pay.
#include <algorithm>

#include "cuda/element.cuh"
#include "cuda/experts.h"
#include "cuda/ptx.cuh"
#include "cuda/routing.cuh"
#include "cuda/weight_layout.h"

namespace longhaul::cuda {
namespace {

// Segments of a launch: kernel parameters must stay below 4 KiB.
constexpr int kSegments = 8;
constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarpThreads;
static_assert(kThreads == kRouterThreads);

template <class Part>
struct Segments {
  struct Segment {
    int row_begin, row_count;
    Part parts[kMaxExpertParts];
  };
  Segment of[kSegments];
  int count = 0;
  int rows = 0;  // of all of them

  // The segment of row `index` of the launch, and that row of the step.
  __device__ __forceinline__ const Segment& find(int index, int64_t& row) const {
    int s = 0;
    while (index >= of[s].row_count) index -= of[s++].row_count;
    row = of[s].row_begin + index;
    return of[s];
  }
};

// Calls visit with a matrix's pointer in its type.
template <class Visit>
__device__ __forceinline__ void visit_matrix(const void* data, DType dtype, Visit&& visit) {
  if (dtype == DType::kBf16) {
    visit(static_cast<const __nv_bfloat16*>(data));
  } else if (dtype == DType::kF16) {
    visit(static_cast<const __half*>(data));
  } else {
    visit(static_cast<const float*>(data));
  }
}

template <class W>
constexpr int kPacket = 16 / static_cast<int>(sizeof(W));

template <class W>
__device__ __forceinline__ void unpack(Bytes16 bytes, float (&out)[kPacket<W>]) {
  W values[kPacket<W>];
  memcpy(values, &bytes, sizeof values);
#pragma unroll
  for (int i = 0; i < kPacket<W>; ++i) out[i] = to_float(values[i]);
}

// ---- shrink
// --------------------------------------------------------------------------------------------------

struct ShrinkPart {
  const void* a;      // rows `pitch` elements apart; null: no part
  const float* gate;  // or null
  int64_t pitch;
  int experts, depth;
  DType dtype;
  RouterSettings router;
};

template <class X>
struct ShrinkParams {
  Segments<ShrinkPart> segments;
  const X* x;
  float* weights;
  float* middle;
  float* logits;  // this and the next may be null
  float* entropy;
  int64_t x_stride, weights_row, weights_part, middle_row, middle_part, logits_row, logits_part, entropy_row;
  int cols, parts, tiles;  // tiles of the deepest part
  bool x_aligned;
};
static_assert(sizeof(ShrinkParams<float>) < 4096);

constexpr int kTileRows = 4;  // of A, in a block

struct ShrinkStorage {
  RouterStorage<1> router;
  float partial[kWarps][kTileRows];
};

// Dot products of x with kTileRows rows of A: the warps share K.
template <class X, class W>
__device__ __forceinline__ void tile_dots(const X* x, const W* a, int64_t pitch, int rows, int cols,
                                          bool x_aligned, ShrinkStorage& storage) {
  constexpr int kCount = kPacket<W>;
  const int lane = threadIdx.x % kWarpThreads, warp = threadIdx.x / kWarpThreads;
  float sums[kTileRows] = {};
#pragma unroll 2
  for (int k = threadIdx.x * kCount; k < cols; k += kThreads * kCount) {
    Bytes16 raw[kTileRows];
    // What is past the last row reads it again and is not stored.
#pragma unroll
    for (int j = 0; j < kTileRows; ++j) raw[j] = ptx::load16_once(a + min(j, rows - 1) * pitch + k);
    float values[kCount];
    load_x_floats(x, k, cols, x_aligned, values);
#pragma unroll
    for (int j = 0; j < kTileRows; ++j) {
      float weight[kCount];
      unpack<W>(raw[j], weight);
#pragma unroll
      for (int n = 0; n < kCount; ++n) sums[j] = fmaf(values[n], weight[n], sums[j]);
    }
  }
#pragma unroll
  for (int j = 0; j < kTileRows; ++j) {
    const float sum = warp_sum(sums[j]);
    if (lane == 0) storage.partial[warp][j] = sum;
  }
  __syncthreads();
}

// Blocks (parts' routers, then tiles of parts) x rows.
template <class X>
__global__ void __launch_bounds__(kThreads) shrink_rows(const ShrinkParams<X> p) {
  DYNAMIC_SMEM(smem);
  auto& storage = *reinterpret_cast<ShrinkStorage*>(smem);
  int64_t row;
  const auto& segment = p.segments.find(blockIdx.y, row);
  const X* const x = p.x + row * p.x_stride;
  const int block = blockIdx.x;
  if (block < p.parts) {
    const ShrinkPart& part = segment.parts[block];
    if (part.a == nullptr || part.gate == nullptr) return;
    const X* const rows[1] = {x};
    gate_logits(rows, part.gate, part.experts, p.cols, p.x_aligned, storage.router);
    if (threadIdx.x >= kWarpThreads) return;
    RoutedExpert routed[kLaneExperts];
    const double entropy =
        route_warp(storage.router.logits[0], part.experts, part.router, storage.router.p[0], routed);
#pragma unroll
    for (int i = 0; i < kLaneExperts; ++i) {
      const int e = threadIdx.x + i * kWarpThreads;
      if (e >= part.experts) continue;
      p.weights[row * p.weights_row + block * p.weights_part + e] = static_cast<float>(routed[i].weight);
      if (p.logits != nullptr)
        p.logits[row * p.logits_row + block * p.logits_part + e] = storage.router.logits[0][e];
    }
    if (threadIdx.x == 0 && p.entropy != nullptr)
      p.entropy[row * p.entropy_row + block] = static_cast<float>(entropy);
    return;
  }
  const int index = (block - p.parts) / p.tiles;
  const ShrinkPart& part = segment.parts[index];
  const int first = (block - p.parts) % p.tiles * kTileRows;
  if (part.a == nullptr || first >= part.depth) return;
  const int count = min(part.depth - first, kTileRows);
  visit_matrix(part.a, part.dtype, [&](auto* a) {
    tile_dots(x, a + first * part.pitch, part.pitch, count, p.cols, p.x_aligned, storage);
  });
  if (threadIdx.x < count) {
    float sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += storage.partial[w][threadIdx.x];
    p.middle[row * p.middle_row + index * p.middle_part + first + threadIdx.x] = sum;
  }
}

// ---- expand
// --------------------------------------------------------------------------------------------------

struct ExpandPart {
  const void* b;  // null: no part
  const float* factor;
  const float* offset;
  int64_t pitch;
  int experts, rank, outputs;
  float scale;
  DType dtype;
  bool weighted;
};

struct ExpandParams {
  Segments<ExpandPart> segments;
  const float* middle;
  const float* weights;
  void* out[kMaxExpertParts];
  int64_t out_stride[kMaxExpertParts];
  bool out_bf16[kMaxExpertParts];
  int64_t weights_row, weights_part, middle_row, middle_part;
  int tiles;  // of the widest part
};
static_assert(sizeof(ExpandParams) < 4096);

constexpr int kWarpOutputs = 4;
constexpr int kTileOutputs = kWarps * kWarpOutputs;

template <class Out>
__device__ __forceinline__ void finish(Out* out, int n, float sum, const ExpandPart& part) {
  float value = to_float(*out) + sum;
  if (part.factor != nullptr) value *= part.factor[n];
  if (part.offset != nullptr) value += part.offset[n];
  *out = from_float<Out>(value);
}

// Blocks (tiles of parts) x rows. Shared memory: the weighted middle, whole packets of 8.
__global__ void __launch_bounds__(kThreads) expand_rows(const ExpandParams p) {
  DYNAMIC_SMEM(smem);
  float* const weighted = reinterpret_cast<float*>(smem);
  int64_t row;
  const auto& segment = p.segments.find(blockIdx.y, row);
  const int index = blockIdx.x / p.tiles;
  const ExpandPart& part = segment.parts[index];
  const int lane = threadIdx.x % kWarpThreads, warp = threadIdx.x / kWarpThreads;
  const int first = blockIdx.x % p.tiles * kTileOutputs + warp * kWarpOutputs;
  if (part.b == nullptr || first - warp * kWarpOutputs >= part.outputs) return;
  const int depth = part.experts * part.rank;
  const float* const middle = p.middle + row * p.middle_row + index * p.middle_part;
  const float* const weights = p.weights + row * p.weights_row + index * p.weights_part;
  for (int j = threadIdx.x; j < (depth + 7) / 8 * 8; j += kThreads) {
    const float weight = j >= depth ? 0.0f : part.weighted ? weights[j / part.rank] : 1.0f;
    // What an unused expert's middle holds is nobody's business, a NaN even.
    weighted[j] = weight == 0 ? 0.0f : part.scale * weight * middle[j];
  }
  __syncthreads();
  if (first >= part.outputs) return;  // whole warps
  const int count = min(part.outputs - first, kWarpOutputs);
  float sums[kWarpOutputs] = {};
  visit_matrix(part.b, part.dtype, [&](auto* b) {
    using W = std::remove_cv_t<std::remove_reference_t<decltype(*b)>>;
    constexpr int kCount = kPacket<W>;
    for (int k = lane * kCount; k < depth; k += kWarpThreads * kCount) {
      // Packets of unused experts are not read.
      float values[kCount];
      bool used = false;
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        values[i] = weighted[k + i];
        used = used || values[i] != 0;
      }
      if (!used) continue;
      Bytes16 raw[kWarpOutputs];
#pragma unroll
      for (int j = 0; j < kWarpOutputs; ++j)
        raw[j] = ptx::load16_once(b + int64_t{first + min(j, count - 1)} * part.pitch + k);
#pragma unroll
      for (int j = 0; j < kWarpOutputs; ++j) {
        float matrix[kCount];
        unpack<W>(raw[j], matrix);
#pragma unroll
        for (int i = 0; i < kCount; ++i) sums[j] = fmaf(values[i], matrix[i], sums[j]);
      }
    }
  });
#pragma unroll
  for (int j = 0; j < kWarpOutputs; ++j) {
    const float sum = warp_sum(sums[j]);
    if (lane != j || j >= count) continue;
    const int64_t at = row * p.out_stride[index] + first + j;
    if (p.out_bf16[index]) {
      finish(static_cast<__nv_bfloat16*>(p.out[index]) + at, first + j, sum, part);
    } else {
      finish(static_cast<float*>(p.out[index]) + at, first + j, sum, part);
    }
  }
}

// Fills `segments` from the next of `args` on and calls launch_some() whenever it is full, and at the end.
template <class Args, class Part, class Fill, class LaunchSome>
cudaError_t in_launches(const Args& args, Segments<Part>& segments, Fill&& fill, LaunchSome&& launch_some) {
  const auto flush = [&] {
    const cudaError_t error = segments.count == 0 ? cudaSuccess : launch_some();
    segments.count = segments.rows = 0;
    return error;
  };
  for (int64_t s = 0; s < args.segment_count; ++s) {
    const ExpertSegment& from = args.segments[s];
    if (from.row_count == 0) continue;
    auto& to = segments.of[segments.count++];
    to.row_begin = static_cast<int>(from.row_begin);
    to.row_count = static_cast<int>(from.row_count);
    segments.rows += to.row_count;
    for (int p = 0; p < kMaxExpertParts; ++p) {
      to.parts[p] = p < args.parts && from.parts[p].experts > 0 ? fill(from.parts[p]) : Part{};
    }
    if (segments.count < kSegments) continue;
    if (const cudaError_t error = flush(); error != cudaSuccess) return error;
  }
  return flush();
}

}  // namespace

cudaError_t launch_shrink_decode(const ExpertShrinkArgs& a, cudaStream_t stream) {
  return visit_activation(a.x.dtype, [&](auto element) {
    using X = typename decltype(element)::Type;
    ShrinkParams<X> p{};
    p.x = a.x.as<X>();
    p.weights = a.weights.as<float>();
    p.middle = a.middle.as<float>();
    p.logits = a.logits.as<float>();
    p.entropy = a.entropy.as<float>();
    p.x_stride = a.x.stride[0];
    p.weights_row = a.weights.stride[0];
    p.weights_part = a.weights.stride[1];
    p.middle_row = a.middle.stride[0];
    p.middle_part = a.middle.stride[1];
    p.logits_row = a.logits.stride[0];
    p.logits_part = a.logits.stride[1];
    p.entropy_row = a.entropy.stride[0];
    p.cols = static_cast<int>(a.x.shape[1]);
    p.parts = a.parts;
    p.x_aligned = rows_aligned(a.x, 16 / static_cast<int64_t>(sizeof(X)));
    const auto fill = [&](const ExpertPart& part) {
      p.tiles = std::max(p.tiles, static_cast<int>(divide_up(part.a->rows, kTileRows)));
      return ShrinkPart{part.a->storage.data(),
                        part.gate.as<const float>(),
                        weight_pitch(part.a->cols, part.a->dtype),
                        part.experts,
                        static_cast<int>(part.a->rows),
                        part.a->dtype,
                        part.router};
    };
    return in_launches(a, p.segments, fill, [&] {
      return p.tiles == 0 ? cudaSuccess
                          : launch(shrink_rows<X>, grid_of(p.parts + p.parts * p.tiles, p.segments.rows),
                                   dim3(kThreads), sizeof(ShrinkStorage), stream, p);
    });
  });
}

cudaError_t launch_expand_decode(const ExpertExpandArgs& a, cudaStream_t stream) {
  ExpandParams p{};
  p.middle = a.middle.as<const float>();
  p.weights = a.weights.as<const float>();
  for (int i = 0; i < a.parts; ++i) {
    p.out[i] = a.out[i].data;
    p.out_stride[i] = a.out[i].stride[0];
    p.out_bf16[i] = a.out[i].dtype == DType::kBf16;
  }
  p.weights_row = a.weights.stride[0];
  p.weights_part = a.weights.stride[1];
  p.middle_row = a.middle.stride[0];
  p.middle_part = a.middle.stride[1];
  int64_t depth = 0;
  const auto fill = [&](const ExpertPart& part) {
    p.tiles = std::max(p.tiles, static_cast<int>(divide_up(part.b->rows, kTileOutputs)));
    depth = std::max(depth, part.b->cols);
    return ExpandPart{part.b->storage.data(),
                      part.factor.as<const float>(),
                      part.offset.as<const float>(),
                      weight_pitch(part.b->cols, part.b->dtype),
                      part.experts,
                      part.rank,
                      static_cast<int>(part.b->rows),
                      part.scale,
                      part.b->dtype,
                      part.weighted};
  };
  return in_launches(a, p.segments, fill, [&] {
    return p.tiles == 0
               ? cudaSuccess
               : launch(expand_rows, grid_of(int64_t{a.parts} * p.tiles, p.segments.rows), dim3(kThreads),
                        static_cast<size_t>(round_up(depth, 8)) * sizeof(float), stream, p);
  });
}

}  // namespace longhaul::cuda
