// pack_heads and unpack_heads: heads into and out of the parts that an all-to-all moves.
#include "cuda/element.cuh"
#include "cuda/ops.h"
#include "cuda/stream.h"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;

// Of row `row` in slot `index`, in rows of one head.
__device__ __forceinline__ int64_t packed_row(const HeadSlot& slot, int32_t index, int64_t rows, int64_t row) {
  return slot.first * rows + row * slot.count + index - slot.first;
}

struct PackParams {
  const char* x;
  char* packed;
  const HeadSlot* slots;
  int64_t rows;
  int64_t row_stride;   // bytes
  int64_t head_stride;  // bytes
  int64_t head_bytes;
  int32_t slot_count;
};

template <int kBytes>
__global__ void __launch_bounds__(kThreads) pack(const PackParams p) {
  const int64_t row = blockIdx.x;
  const int64_t units = p.head_bytes / kBytes;
  const int64_t item = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  const auto index = static_cast<int32_t>(item / units);
  if (index >= p.slot_count) return;
  const HeadSlot slot = p.slots[index];
  const int64_t column = item % units * kBytes;
  copy_bytes<kBytes>(p.packed + packed_row(slot, index, p.rows, row) * p.head_bytes + column,
                     p.x + row * p.row_stride + slot.head * p.head_stride + column);
}

template <class T>
struct UnpackParams {
  const T* packed;
  T* out;
  const HeadSlot* slots;
  int64_t rows;
  int64_t row_stride;
  int64_t head_stride;
  int32_t heads;
  int32_t dim;
  int32_t slot_count;
};

// A warp a row and head: its lanes look through the slots together, and then take a column each.
template <class T>
__global__ void __launch_bounds__(kThreads) unpack(const UnpackParams<T> p) {
  const int64_t row = blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const auto head = static_cast<int32_t>(blockIdx.y * kWarps + threadIdx.x / 32);
  if (head >= p.heads) return;
  for (int32_t column = lane; column - lane < p.dim; column += 32) {
    float sum = 0;
    for (int32_t base = 0; base < p.slot_count; base += 32) {
      const bool holds = base + lane < p.slot_count && p.slots[base + lane].head == head;
      for (uint32_t left = __ballot_sync(0xffffffffu, holds); left != 0; left &= left - 1) {
        const int32_t index = base + __ffs(static_cast<int>(left)) - 1;
        const int64_t from = packed_row(p.slots[index], index, p.rows, row) * p.dim + column;
        if (column < p.dim) sum += to_float(p.packed[from]);
      }
    }
    if (column < p.dim) p.out[row * p.row_stride + head * p.head_stride + column] = from_float<T>(sum);
  }
}

}  // namespace

Status pack_heads(Stream& stream, const PackHeadsArgs& a) {
  const auto size = static_cast<int64_t>(size_of(a.x.dtype));
  const PackParams params{.x = a.x.as<char>(),
                          .packed = a.packed.as<char>(),
                          .slots = a.slots,
                          .rows = a.x.shape[0],
                          .row_stride = a.x.stride[0] * size,
                          .head_stride = a.x.stride[1] * size,
                          .head_bytes = a.x.shape[2] * size,
                          .slot_count = a.slot_count};
  if (a.packed.elements() == 0) return {};
  CudaStream& cuda = cuda_stream(stream);
  const auto run = [&](auto kernel, int64_t unit) {
    const int64_t items = params.slot_count * (params.head_bytes / unit);
    return launch(kernel, grid_of(params.rows, divide_up(items, kThreads)), dim3(kThreads), 0, cuda.handle(),
                  params);
  };
  const bool whole =
      params.head_bytes % 16 == 0 && rows_aligned(a.x, 16 / size) && rows_aligned(a.packed, 16 / size);
  return cuda.launched(whole ? run(pack<16>, 16) : size == 4 ? run(pack<4>, 4) : run(pack<2>, 2), "pack_heads");
}

Status unpack_heads(Stream& stream, const UnpackHeadsArgs& a) {
  if (a.out.elements() == 0) return {};
  CudaStream& cuda = cuda_stream(stream);
  const cudaError_t error = visit_storage(a.out.dtype, [&](auto element) {
    using T = typename decltype(element)::Type;
    const UnpackParams<T> params{.packed = a.packed.as<T>(),
                                 .out = a.out.as<T>(),
                                 .slots = a.slots,
                                 .rows = a.out.shape[0],
                                 .row_stride = a.out.stride[0],
                                 .head_stride = a.out.stride[1],
                                 .heads = static_cast<int32_t>(a.out.shape[1]),
                                 .dim = static_cast<int32_t>(a.out.shape[2]),
                                 .slot_count = a.slot_count};
    return launch(unpack<T>, grid_of(params.rows, divide_up(params.heads, kWarps)), dim3(kThreads), 0,
                  cuda.handle(), params);
  });
  return cuda.launched(error, "unpack_heads");
}

}  // namespace longhaul::cuda
