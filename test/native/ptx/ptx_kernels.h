// Kernels of one instruction each: registers and shared memory come from the host and go back to it as they
// are, so that the test alone says where each element lies. All pointers are to device memory.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace longhaul::testing {

enum class Element { kBf16, kF16 };

// One warp. a [32][4], b [32][2], c and d [32][4]: the registers of each lane.
cudaError_t run_mma(Element element, const uint32_t* a, const uint32_t* b, const float* c, float* d);

// One warp. `shared` bytes are put into shared memory; lane i gives the address shared + offsets[i]. out
// [32][matrices].
cudaError_t run_ldmatrix(int matrices, bool transposed, const uint8_t* shared, int bytes, const int* offsets,
                         uint32_t* out);

// One thread copies `width` (16, 8 or 4) bytes from `in`, or none where not `valid`, into shared memory that
// held 0x77; the 16 bytes there come back.
cudaError_t run_cp_async(int width, bool valid, const uint8_t* in, uint8_t* out);

// out[i] = 2^in[i] of one warp.
cudaError_t run_ex2(const float* in, float* out);

// Warp 1 writes 32 numbers and only arrives at named barrier 3; warp 0 waits there and copies them to `out`.
cudaError_t run_named_barrier(float* out);

// ---- sm_90a ----

// Loads the box of `rows` x 64 16-bit elements at (column, row) of a matrix [tensor_rows][tensor_columns],
// 128-byte swizzled, and brings the shared memory back as it lies: out [rows * 128 bytes].
cudaError_t run_tma_load(const uint16_t* matrix, int tensor_rows, int tensor_columns, int column, int row,
                         int rows, uint8_t* out);
// The way back: `shared` [rows * 128 bytes] to the box at (column, row) of the matrix.
cudaError_t run_tma_store(uint16_t* matrix, int tensor_rows, int tensor_columns, int column, int row, int rows,
                          const uint8_t* shared);

// One warpgroup, d[64][n] = c + a b of one instruction; n is 64 or 128. a_shared [64 * 128 bytes] and b_shared
// are tiles as they lie in shared memory (b: n rows of 128 bytes; transposed: n / 64 chunks of 16 rows of 128
// bytes, 2048 bytes apart). c and d [128][n / 2]: the accumulators of each thread.
cudaError_t run_wgmma(Element element, int n, bool transposed_b, const uint8_t* a_shared,
                      const uint8_t* b_shared, const float* c, float* d);
// With A in registers: a [128][4].
cudaError_t run_wgmma_registers(Element element, int n, bool transposed_b, const uint32_t* a,
                                const uint8_t* b_shared, const float* c, float* d);

}  // namespace longhaul::testing
