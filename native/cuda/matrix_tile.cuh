// Tiles of 16-bit numbers in shared memory and their products by mma.m16n8k16, a warp at a time.
//
// Fragments (PTX ISA): of a 16 x 8 product, lane l holds rows l / 4 and l / 4 + 8 in elements 0-1 and 2-3,
// columns l % 4 * 2 and the next.
#pragma once

#include "cuda/ptx.cuh"

namespace longhaul::cuda {

// kRows rows of kDim numbers in 16-byte chunks; a chunk's place is xored with its row, so that ldmatrix meets
// no bank conflict.
template <int kRows, int kDim>
struct MatrixTile {
  static constexpr int kChunks = kDim / 8;
  alignas(16) unsigned char bytes[kRows * kDim * 2];

  __device__ __forceinline__ unsigned char* at(int row, int chunk) {
    return bytes + (row * kChunks + (chunk ^ (row & 7))) * 16;
  }

  // at(block + row, pair * 2 + odd) for a `block` that is a multiple of 8 and an `odd` of 0 or 1, split so that
  // what a lane knows once costs nothing in a loop over blocks and pairs.
  __device__ __forceinline__ unsigned char* at(int block, int row, int pair, int odd) {
    const int within = ((row & 7) ^ odd) * 16;
    return bytes + row * (kChunks * 16) + (within ^ (pair * 32)) + block * (kChunks * 16);
  }
};

template <class Pair>
__device__ __forceinline__ uint32_t bits_of(Pair pair) {
  uint32_t bits;
  static_assert(sizeof pair == sizeof bits);
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}

// What the tensor cores multiply, and the conversion of two f32 to it.
struct Bf16Matrix {
  static constexpr bool kIsBf16 = true;
  static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                                  uint32_t b1) {
    ptx::mma_m16n8k16_bf16(d, a, b0, b1);
  }
  static __device__ __forceinline__ uint32_t pack(float low, float high) {
    return bits_of(__floats2bfloat162_rn(low, high));
  }
  static __device__ __forceinline__ uint32_t from_bf16(uint32_t pair) { return pair; }
};
struct F16Matrix {
  static constexpr bool kIsBf16 = false;
  static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                                  uint32_t b1) {
    ptx::mma_m16n8k16_f16(d, a, b0, b1);
  }
  static __device__ __forceinline__ uint32_t pack(float low, float high) {
    return bits_of(__floats2half2_rn(low, high));
  }
  // Exact but for numbers below f16's normal range; those above its largest become the largest, not infinity.
  static __device__ __forceinline__ uint32_t from_bf16(uint32_t pair) {
    return pack(saturate(__uint_as_float(pair << 16)), saturate(__uint_as_float(pair & 0xffff0000u)));
  }

 private:
  static __device__ __forceinline__ float saturate(float x) {
    constexpr float kLargest = 65504;
    return x > kLargest ? kLargest : x < -kLargest ? -kLargest : x;
  }
};

// s[kRowBlocks * 16][kColumns] = a's rows from `a_row` times b's rows from `b_row`, transposed. Only the first
// `dim` columns of the tiles are looked at, in steps of 16; kWhole: they are all.
template <class Matrix, bool kWhole, int kRowBlocks, int kColumnTiles, int kRowsA, int kRowsB, int kDim>
__device__ __forceinline__ void multiply_transposed(float (&s)[kRowBlocks][kColumnTiles][4],
                                                    MatrixTile<kRowsA, kDim>& a, int a_row,
                                                    MatrixTile<kRowsB, kDim>& b, int b_row, int dim, int lane) {
  lane = ptx::opaque(lane);  // the addresses of all fragments together would not fit the registers
#pragma unroll
  for (int r = 0; r < kRowBlocks; ++r) {
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll
      for (int i = 0; i < 4; ++i) s[r][c][i] = 0;
    }
  }
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
    if (!kWhole && k * 16 >= dim) break;
    uint32_t left[kRowBlocks][4];
#pragma unroll
    for (int r = 0; r < kRowBlocks; ++r) {
      ptx::ldmatrix_x4(left[r], a.at(a_row + r * 16, lane & 15, k, lane >> 4));
    }
#pragma unroll
    for (int c = 0; c < kColumnTiles / 2; ++c) {
      uint32_t right[4];
      ptx::ldmatrix_x4(right, b.at(b_row + c * 16, (lane & 7) + (lane >> 4) * 8, k, lane >> 3 & 1));
#pragma unroll
      for (int r = 0; r < kRowBlocks; ++r) {
        Matrix::multiply(s[r][c * 2], left[r], right[0], right[1]);
        Matrix::multiply(s[r][c * 2 + 1], left[r], right[2], right[3]);
      }
    }
  }
}

// out[kRowBlocks * 16][kDim] += weights[..][kColumnTiles * 8] times b's rows from `b_row`.
template <class Matrix, bool kWhole, int kRowBlocks, int kColumnTiles, int kRowsB, int kDim>
__device__ __forceinline__ void multiply_add(float (&out)[kRowBlocks][kDim / 8][4],
                                             const float (&weights)[kRowBlocks][kColumnTiles][4],
                                             MatrixTile<kRowsB, kDim>& b, int b_row, int dim, int lane) {
  lane = ptx::opaque(lane);
#pragma unroll
  for (int k = 0; k < kColumnTiles / 2; ++k) {
    uint32_t left[kRowBlocks][4];
#pragma unroll
    for (int r = 0; r < kRowBlocks; ++r) {
      const float(&low)[4] = weights[r][k * 2];
      const float(&high)[4] = weights[r][k * 2 + 1];
      left[r][0] = Matrix::pack(low[0], low[1]);
      left[r][1] = Matrix::pack(low[2], low[3]);
      left[r][2] = Matrix::pack(high[0], high[1]);
      left[r][3] = Matrix::pack(high[2], high[3]);
    }
#pragma unroll
    for (int c = 0; c < kDim / 16; ++c) {
      if (!kWhole && c * 16 >= dim) break;
      uint32_t right[4];
      ptx::ldmatrix_x4_trans(right, b.at(b_row + k * 16, lane & 15, c, lane >> 4));
#pragma unroll
      for (int r = 0; r < kRowBlocks; ++r) {
        Matrix::multiply(out[r][c * 2], left[r], right[0], right[1]);
        Matrix::multiply(out[r][c * 2 + 1], left[r], right[2], right[3]);
      }
    }
  }
}

}  // namespace longhaul::cuda
