// Tiles for f32 arithmetic without tensor cores: a lane takes one key and keeps the scores of several query
// rows, so that a key is read once for all of them and nothing has to be summed over lanes.
#pragma once

#include <type_traits>

#include "cuda/paged_rows.cuh"
#include "cuda/query_tile.cuh"

namespace longhaul::cuda {

__device__ __forceinline__ float to_f32(float x) {
  return x;
}
__device__ __forceinline__ float to_f32(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
__device__ __forceinline__ float to_f32(__half x) {
  return __half2float(x);
}

// kRows rows of kDim numbers as they are stored. One chunk between the rows keeps lanes that read a row each
// out of one another's banks.
template <class T, int kRows, int kDim>
struct RowTile {
  static constexpr int kChunks = kDim * static_cast<int>(sizeof(T)) / 16;
  static constexpr int kChunkNumbers = 16 / static_cast<int>(sizeof(T));
  static constexpr int kPitch = (kChunks + 1) * 16;
  alignas(16) unsigned char bytes[kRows * kPitch];

  __device__ __forceinline__ unsigned char* at(int row, int chunk) { return bytes + row * kPitch + chunk * 16; }

  __device__ __forceinline__ float number(int row, int column) const {
    return to_f32(*reinterpret_cast<const T*>(bytes + row * kPitch + column * static_cast<int>(sizeof(T))));
  }
};

// The two 16-bit numbers of a word.
template <class T>
__device__ __forceinline__ void unpack(uint32_t word, float& low, float& high) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    low = __uint_as_float(word << 16);
    high = __uint_as_float(word & 0xffff0000u);
  } else {
    low = __half2float(__ushort_as_half(static_cast<unsigned short>(word & 0xffff)));
    high = __half2float(__ushort_as_half(static_cast<unsigned short>(word >> 16)));
  }
}

template <class T>
__device__ __forceinline__ void unpack_chunk(Bytes16 chunk, float (&x)[16 / sizeof(T)]) {
  if constexpr (std::is_same_v<T, float>) {
    x[0] = __uint_as_float(chunk.x);
    x[1] = __uint_as_float(chunk.y);
    x[2] = __uint_as_float(chunk.z);
    x[3] = __uint_as_float(chunk.w);
  } else {
    unpack<T>(chunk.x, x[0], x[1]);
    unpack<T>(chunk.y, x[2], x[3]);
    unpack<T>(chunk.z, x[4], x[5]);
    unpack<T>(chunk.w, x[6], x[7]);
  }
}

// s[r] = q[r] . keys[key], r < kQueries. The queries are zeros from `dim` on.
template <int kQueries, class T, int kKeys, int kDim>
__device__ __forceinline__ void multiply_rows(float (&s)[kQueries], const float (*q)[kDim],
                                              RowTile<T, kKeys, kDim>& keys, int key, int dim) {
  constexpr int kNumbers = RowTile<T, kKeys, kDim>::kChunkNumbers;
#pragma unroll
  for (int r = 0; r < kQueries; ++r) s[r] = 0;
#pragma unroll 2
  for (int chunk = 0; chunk * kNumbers < dim; ++chunk) {
    float x[kNumbers];
    unpack_chunk<T>(load16(keys.at(key, chunk)), x);
#pragma unroll
    for (int r = 0; r < kQueries; ++r) {
#pragma unroll
      for (int i = 0; i < kNumbers; i += 4) {
        float y[4];
        unpack_chunk<float>(load16(&q[r][chunk * kNumbers + i]), y);
#pragma unroll
        for (int j = 0; j < 4; ++j) s[r] = fmaf(x[i + j], y[j], s[r]);
      }
    }
  }
}

// Rows of q as f32, zeros behind row `rows` and column `dim`. `place(i)` gives row i's step row and head.
template <int kThreads, int kRows, int kDim, class Place>
__device__ __forceinline__ void load_f32_queries(float (&to)[kRows][kDim], const RowTensor& q, int rows,
                                                 int dim, int thread, Place place) {
  for (int i = thread; i < kRows * kDim; i += kThreads) {
    const int row = i / kDim;
    const int column = i % kDim;
    float x = 0;
    if (row < rows && column < dim) {
      const int2 from = place(row);
      x = q.bf16 ? to_f32(at<const __nv_bfloat16>(q, from.x, from.y)[column])
                 : at<const float>(q, from.x, from.y)[column];
    }
    to[row][column] = x;
  }
}

}  // namespace longhaul::cuda
