// embed and gather_rows: rows of a matrix by their indices.
#include "cuda/element.cuh"
#include "cuda/ops.h"
#include "cuda/stream.h"
#include "cuda/weight_layout.h"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 128;

template <class T>
struct EmbedParams {
  const T* table;
  const int32_t* ids;
  float* out;
  int64_t pitch;
  int64_t out_stride;
  int columns;
};

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads) embed_rows(const EmbedParams<T> p) {
  const int64_t row = blockIdx.x;
  const int column = (blockIdx.y * kThreads + threadIdx.x) * kWidth;
  if (column >= p.columns) return;
  float values[kWidth];
  load_floats(p.table + p.ids[row] * p.pitch + column, values);
  store_floats(p.out + row * p.out_stride + column, values);
}

struct GatherParams {
  const char* x;
  const int32_t* index;
  char* out;
  int64_t x_stride;  // bytes
  int64_t out_stride;
  int64_t row_bytes;
};

template <int kBytes>
__global__ void __launch_bounds__(kThreads) gather(const GatherParams p) {
  const int64_t row = blockIdx.x;
  const int64_t at = (int64_t{blockIdx.y} * kThreads + threadIdx.x) * kBytes;
  if (at >= p.row_bytes) return;
  copy_bytes<kBytes>(p.out + row * p.out_stride + at, p.x + p.index[row] * p.x_stride + at);
}

}  // namespace

Status embed(Stream& stream, const EmbedArgs& a) {
  CudaStream& cuda = cuda_stream(stream);
  const int64_t rows = a.ids.shape[0];
  const int64_t columns = a.table->cols;
  if (rows == 0 || columns == 0) return {};
  const cudaError_t error = visit_storage(a.table->dtype, [&](auto element) {
    using T = typename decltype(element)::Type;
    const EmbedParams<T> params{
        static_cast<const T*>(a.table->storage.data()), a.ids.as<int32_t>(), a.out.as<float>(),
        weight_pitch(columns, a.table->dtype),          a.out.stride[0],     static_cast<int>(columns)};
    constexpr int kWidth = 4;
    if (columns % kWidth == 0 && rows_aligned(a.out, kWidth)) {
      return launch(embed_rows<T, kWidth>, grid_of(rows, divide_up(columns, kThreads * kWidth)), dim3(kThreads),
                    0, cuda.handle(), params);
    }
    return launch(embed_rows<T, 1>, grid_of(rows, divide_up(columns, kThreads)), dim3(kThreads), 0,
                  cuda.handle(), params);
  });
  return cuda.launched(error, "embed");
}

Status gather_rows(Stream& stream, const GatherRowsArgs& a) {
  CudaStream& cuda = cuda_stream(stream);
  const int64_t rows = a.index.shape[0];
  const auto size = static_cast<int64_t>(size_of(a.x.dtype));
  const int64_t row_bytes = a.x.shape[1] * size;
  if (rows == 0 || row_bytes == 0) return {};
  const GatherParams params{a.x.as<char>(),       a.index.as<int32_t>(),  a.out.as<char>(),
                            a.x.stride[0] * size, a.out.stride[0] * size, row_bytes};
  const auto run = [&](auto kernel, int64_t unit) {
    return launch(kernel, grid_of(rows, divide_up(row_bytes, kThreads * unit)), dim3(kThreads), 0,
                  cuda.handle(), params);
  };
  cudaError_t error;
  if (row_bytes % 16 == 0 && rows_aligned(a.x, 16 / size) && rows_aligned(a.out, 16 / size)) {
    error = run(gather<16>, 16);
  } else if (size == 8) {
    error = run(gather<8>, 8);
  } else if (size == 4) {
    error = run(gather<4>, 4);
  } else if (size == 2) {
    error = run(gather<2>, 2);
  } else {
    error = run(gather<1>, 1);
  }
  return cuda.launched(error, "gather_rows");
}

}  // namespace longhaul::cuda
