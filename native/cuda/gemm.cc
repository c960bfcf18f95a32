// Picks the kernel of a product: by role, dtypes, the weight's shape, and for blocks of rows on sm_90 by
// whether TMA can read x. Nothing else, so that a row gives the same bits whatever is in the batch.
#include "cuda/gemm_problem.h"
#include "cuda/gemm_table.h"
#include "cuda/ops.h"
#include "cuda/stream.h"
#include "cuda/weight_layout.h"

namespace longhaul::cuda {
namespace {

// The largest power of two, 16 at most, that divides the address of every row; of a single row as of many like
// it.
int row_alignment(const Tensor& t) {
  const int64_t bytes = t.stride[0] * static_cast<int64_t>(size_of(t.dtype));
  const uint64_t bits = reinterpret_cast<uintptr_t>(t.data) | static_cast<uint64_t>(bytes) | 16;
  return static_cast<int>(bits & ~(bits - 1));
}

GemmProblem problem_of(const GemmArgs& a) {
  return {.x = a.x.data,
          .x_stride = a.x.stride[0],
          .x_alignment = row_alignment(a.x),
          .weight = a.weight->storage.data(),
          .pitch = weight_pitch(a.weight->cols, a.weight->dtype),
          .cols = static_cast<int>(a.weight->cols),
          .x_type = a.x.dtype,
          .weight_type = a.weight->dtype,
          .out = {.data = a.out.data,
                  .stride = a.out.stride[0],
                  .bias = a.bias.as<const float>(),
                  .rows = static_cast<int>(a.x.shape[0]),
                  .outputs = static_cast<int>(a.weight->rows),
                  .bf16 = a.out.dtype == DType::kBf16,
                  .accumulate = a.accumulate,
                  .alignment = row_alignment(a.out)}};
}

cudaError_t launch_block(const GemmProblem& p, const DeviceTraits& device, cudaStream_t stream) {
  const int64_t outputs = p.out.outputs;
  if (p.x_type != DType::kBf16 || p.weight_type != DType::kBf16)
    return launch_gemm_simt(p, tile_for(kSimtTable, outputs), stream);
  if (device.compute_capability == 90 && p.x_alignment == 16)
    return launch_gemm_sm90(p, tile_for(kSm90Table, outputs), device.multiprocessors, stream);
  return launch_gemm_mma(p, tile_for(kMmaTable, outputs), stream);
}

cudaError_t launch_decode(const GemmProblem& p, cudaStream_t stream) {
  if (p.x_type == DType::kBf16 && p.weight_type == DType::kBf16)
    return launch_gemm_decode_mma(p, decode_shape_for(p.out.outputs), stream);
  return launch_gemm_decode_simt(p, stream);
}

}  // namespace

Status gemm(Stream& stream, const GemmArgs& a, Workspace) {
  if (a.x.shape[0] == 0) return Status();
  CudaStream& queue = cuda_stream(stream);
  const GemmProblem problem = problem_of(a);
  const cudaError_t error = a.role == RowRole::kBlock ? launch_block(problem, queue.traits(), queue.handle())
                                                      : launch_decode(problem, queue.handle());
  return queue.launched(error, "gemm");
}

size_t gemm_workspace(const GemmArgs&) {
  return 0;
}

}  // namespace longhaul::cuda
