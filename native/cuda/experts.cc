// LoRA experts on the GPU. Blocks of rows: routers, then products by the kernels of every other product, so
// that a block costs what its arithmetic does. Decode: one launch a half, for bytes and launches are its costs.
#include "cuda/experts.h"

#include "cuda/ops.h"
#include "cuda/stream.h"

namespace longhaul::cuda {
namespace {

// Elements from row to row of a weighted middle: every row starts at a multiple of 16 bytes.
int64_t middle_pitch(int64_t depth) {
  return (depth + 7) / 8 * 8;
}

// Columns [0, count) of part p as a matrix of the segment's rows.
Tensor part_of(const Tensor& t, const ExpertSegment& segment, int32_t p, int64_t count) {
  Tensor out = t.narrow(0, segment.row_begin, segment.row_count).narrow(1, p, 1);
  if (t.rank == 2) return out;
  out = out.narrow(2, 0, count);
  out.rank = 2;
  out.shape[1] = count;
  out.stride[1] = 1;
  return out;
}

// Calls body(segment, part, part index) for every part that there is, until a status is not ok.
template <class Args, class Body>
Status for_parts(const Args& a, Body&& body) {
  for (int64_t s = 0; s < a.segment_count; ++s) {
    const ExpertSegment& segment = a.segments[s];
    if (segment.row_count == 0) continue;
    for (int32_t p = 0; p < a.parts; ++p) {
      const ExpertPart& part = segment.parts[static_cast<size_t>(p)];
      if (part.experts > 0) LONGHAUL_TRY(body(segment, part, p));
    }
  }
  return Status();
}

}  // namespace

size_t expert_shrink_workspace(const ExpertShrinkArgs&) {
  return 0;
}

Status expert_shrink(Stream& stream, const ExpertShrinkArgs& a, Workspace) {
  CudaStream& cuda = cuda_stream(stream);
  if (a.role == RowRole::kDecode) return cuda.launched(launch_shrink_decode(a, cuda.handle()), "expert_shrink");
  return for_parts(a, [&](const ExpertSegment& segment, const ExpertPart& part, int32_t p) -> Status {
    const Tensor x = a.x.slice(segment.row_begin, segment.row_count);
    if (part.gate) {
      RouteArgs router{.x = x, .gate = part.gate, .router = part.router};
      router.weights = part_of(a.weights, segment, p, part.experts);
      if (a.entropy) router.entropy = part_of(a.entropy, segment, p, 1);
      if (a.logits) router.logits = part_of(a.logits, segment, p, part.experts);
      LONGHAUL_TRY(cuda.launched(launch_route(router, cuda.handle()), "expert_shrink"));
    }
    return gemm(stream, {.x = x, .weight = part.a, .out = part_of(a.middle, segment, p, part.a->rows)}, {});
  });
}

size_t expert_expand_workspace(const ExpertExpandArgs& a) {
  return static_cast<size_t>(a.middle.shape[0] * a.parts * middle_pitch(a.middle.shape[2])) * sizeof(float);
}

Status expert_expand(Stream& stream, const ExpertExpandArgs& a, Workspace workspace) {
  CudaStream& cuda = cuda_stream(stream);
  if (a.role == RowRole::kDecode) return cuda.launched(launch_expand_decode(a, cuda.handle()), "expert_expand");
  const int64_t rows = a.middle.shape[0];
  const int64_t pitch = middle_pitch(a.middle.shape[2]);
  return for_parts(a, [&](const ExpertSegment& segment, const ExpertPart& part, int32_t p) -> Status {
    const int64_t depth = part.b->cols;
    const Tensor middle = part_of(a.middle, segment, p, depth);
    const Tensor out = a.out[static_cast<size_t>(p)].slice(segment.row_begin, segment.row_count);
    // Tensor cores want both sides in bf16.
    const bool bf16 = part.b->dtype == DType::kBf16;
    Tensor weighted;
    weighted.data = static_cast<float*>(workspace.data) + (p * rows + segment.row_begin) * pitch;
    weighted.dtype = bf16 ? DType::kBf16 : DType::kF32;
    weighted.rank = 2;
    weighted.shape = {segment.row_count, depth};
    weighted.stride = {pitch, 1};
    const Tensor weights = part.weighted ? part_of(a.weights, segment, p, part.experts) : Tensor();
    const cudaError_t scaled = launch_weighted_middle({.middle = middle.as<const float>(),
                                                       .weights = weights.as<const float>(),
                                                       .out = weighted.data,
                                                       .middle_stride = middle.stride[0],
                                                       .weights_stride = weights.stride[0],
                                                       .out_stride = pitch,
                                                       .rows = static_cast<int>(segment.row_count),
                                                       .depth = static_cast<int>(depth),
                                                       .rank = part.rank,
                                                       .scale = part.scale,
                                                       .bf16 = bf16},
                                                      cuda.handle());
    LONGHAUL_TRY(cuda.launched(scaled, "expert_expand"));
    LONGHAUL_TRY(gemm(stream, {.x = weighted, .weight = part.b, .out = out, .accumulate = true}, {}));
    if (!part.factor) return Status();
    const cudaError_t rescaled = launch_rescale({.out = out.data,
                                                 .factor = part.factor.as<const float>(),
                                                 .offset = part.offset.as<const float>(),
                                                 .stride = out.stride[0],
                                                 .rows = static_cast<int>(segment.row_count),
                                                 .columns = static_cast<int>(out.shape[1]),
                                                 .bf16 = out.dtype == DType::kBf16},
                                                cuda.handle());
    return cuda.launched(rescaled, "expert_expand");
  });
}

}  // namespace longhaul::cuda
