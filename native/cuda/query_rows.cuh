// Query rows to shared memory.
#pragma once

#include "cuda/matrix_tile.cuh"
#include "cuda/query_tile.cuh"

namespace longhaul::cuda {

// Chunk `chunk` (8 numbers) of a bf16 row of `dim`, zeros behind its end.
__device__ __forceinline__ Bytes16 load_bf16_chunk(const __nv_bfloat16* row, bool whole_chunks, int chunk,
                                                   int dim) {
  Bytes16 out{0, 0, 0, 0};
  if (chunk * 8 >= dim) return out;
  if (whole_chunks) return load16(row + chunk * 8);
  const auto pair = [&](int i) -> uint32_t {
    if (chunk * 8 + i >= dim) return 0;
    const uint32_t low = __bfloat16_as_ushort(row[chunk * 8 + i]);
    const uint32_t high = __bfloat16_as_ushort(row[chunk * 8 + i + 1]);
    return low | high << 16;
  };
  out.x = pair(0);
  out.y = pair(2);
  out.z = pair(4);
  out.w = pair(6);
  return out;
}

// The tile's rows of q (bf16) as `Matrix` numbers; rows behind its last are zeros. `row_of(i)` points at row i.
template <class Matrix, int kThreads, int kRows, int kDim, class RowOf>
__device__ __forceinline__ void load_queries(MatrixTile<kRows, kDim>& to, const RowTensor& q, int32_t rows,
                                             int32_t dim, int thread, RowOf row_of) {
  constexpr int kChunks = MatrixTile<kRows, kDim>::kChunks;
#pragma unroll 4
  for (int i = thread; i < kRows * kChunks; i += kThreads) {
    const int row = i / kChunks;
    const int chunk = i % kChunks;
    Bytes16 x{0, 0, 0, 0};
    if (row < rows) x = load_bf16_chunk(row_of(row), q.whole_chunks, chunk, dim);
    x.x = Matrix::from_bf16(x.x);
    x.y = Matrix::from_bf16(x.y);
    x.z = Matrix::from_bf16(x.z);
    x.w = Matrix::from_bf16(x.w);
    store16(to.at(row, chunk), x);
  }
}

template <class Matrix, int kThreads, int kRows, int kDim>
__device__ __forceinline__ void load_queries(MatrixTile<kRows, kDim>& to, const RowTensor& q,
                                             const QueryTile& tile, int32_t dim, int thread) {
  load_queries<Matrix, kThreads>(to, q, tile.rows, dim, thread, [&](int row) {
    return at<const __nv_bfloat16>(q, tile.step_row(row), tile.step_head(row));
  });
}

// As load_queries, but without waiting where the rows need no conversion: they are there after the thread's
// copies have arrived and a barrier.
template <class Matrix, int kThreads, int kRows, int kDim>
__device__ __forceinline__ void fetch_queries(MatrixTile<kRows, kDim>& to, const RowTensor& q,
                                              const QueryTile& tile, int32_t dim, int thread) {
  if (!Matrix::kIsBf16 || !q.whole_chunks) return load_queries<Matrix, kThreads>(to, q, tile, dim, thread);
  constexpr int kChunks = MatrixTile<kRows, kDim>::kChunks;
#pragma unroll 4
  for (int i = thread; i < kRows * kChunks; i += kThreads) {
    const int row = i / kChunks;
    const int chunk = i % kChunks;
    const bool valid = row < tile.rows && chunk * 8 < dim;
    const auto* from = at<const __nv_bfloat16>(q, tile.step_row(row), tile.step_head(row)) + chunk * 8;
    ptx::cp_async16(to.at(row, chunk), valid ? from : q.data, valid);
  }
}

}  // namespace longhaul::cuda
