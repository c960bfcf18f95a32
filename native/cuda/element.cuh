// Elements of tensors in kernels: arithmetic is f32, memory is f32, bf16 or f16, and a thread moves several
// neighbours at once.
#pragma once

#include "core/dtype.h"
#include "core/tensor.h"
#include "cuda/device.cuh"

namespace longhaul::cuda {

__device__ __forceinline__ float to_float(float x) {
  return x;
}
__device__ __forceinline__ float to_float(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
__device__ __forceinline__ float to_float(__half x) {
  return __half2float(x);
}

template <class T>
__device__ __forceinline__ T from_float(float x) {
  if constexpr (sizeof(T) == 4) {
    return x;
  } else if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(x);
  } else {
    return __float2bfloat16_rn(x);
  }
}

// How many neighbours a thread takes when rows of these types are read and written together: 16 bytes of the
// widest, so that a warp's accesses leave no gaps.
template <class... T>
constexpr int kVectorWidth = ((sizeof(T) == 4) || ...) ? 4 : 8;

// Copies kBytes (16, 8, 4, 2 or 1, and multiples of 16), both addresses aligned to it, or to 16.
template <int kBytes>
__device__ __forceinline__ void copy_bytes(void* to, const void* from) {
  if constexpr (kBytes >= 16) {
#pragma unroll
    for (int i = 0; i < kBytes; i += 16) {
      store16(static_cast<char*>(to) + i, load16(static_cast<const char*>(from) + i));
    }
  } else if constexpr (kBytes == 8) {
    store8(to, load8(from));
  } else if constexpr (kBytes == 4) {
    *static_cast<uint32_t*>(to) = *static_cast<const uint32_t*>(from);
  } else if constexpr (kBytes == 2) {
    *static_cast<uint16_t*>(to) = *static_cast<const uint16_t*>(from);
  } else {
    *static_cast<unsigned char*>(to) = *static_cast<const unsigned char*>(from);
  }
}

// kCount neighbours, aligned to their size, or to 16 bytes.
template <class T, int kCount>
__device__ __forceinline__ void load_floats(const T* from, float (&out)[kCount]) {
  alignas(16) T values[kCount];
  copy_bytes<kCount* static_cast<int>(sizeof(T))>(values, from);
#pragma unroll
  for (int i = 0; i < kCount; ++i) out[i] = to_float(values[i]);
}
// The same from a tensor of activations, whose dtype is known at run time.
template <int kCount>
__device__ __forceinline__ void load_activations(const void* data, bool is_f32, int64_t at,
                                                 float (&out)[kCount]) {
  if (is_f32) {
    load_floats(static_cast<const float*>(data) + at, out);
  } else {
    load_floats(static_cast<const __nv_bfloat16*>(data) + at, out);
  }
}
template <class T, int kCount>
__device__ __forceinline__ void store_floats(T* to, const float (&in)[kCount]) {
  alignas(16) T values[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) values[i] = from_float<T>(in[i]);
  copy_bytes<kCount* static_cast<int>(sizeof(T))>(to, values);
}

// ---- on the host -------------------------------------------------------------------------------------------

template <class T>
struct ElementType {
  using Type = T;
};

// Calls `visit` with the ElementType of a dtype; check.cc lets no other through.
template <class Visit>
cudaError_t visit_activation(DType dtype, Visit&& visit) {
  return dtype == DType::kF32 ? visit(ElementType<float>{}) : visit(ElementType<__nv_bfloat16>{});
}
template <class Visit>
cudaError_t visit_storage(DType dtype, Visit&& visit) {
  if (dtype == DType::kF16) return visit(ElementType<__half>{});
  return visit_activation(dtype, visit);
}

// Whether rows can be moved `width` neighbours at a time: every row starts at a multiple of their size (of 16
// bytes, if that is less).
inline bool rows_aligned(const Tensor& t, int64_t width) {
  const auto size = static_cast<int64_t>(size_of(t.dtype));
  const int64_t unit = width * size < 16 ? width * size : 16;
  if (reinterpret_cast<uintptr_t>(t.data) % static_cast<uintptr_t>(unit) != 0) return false;
  for (int d = 0; d + 1 < t.rank; ++d) {
    if (t.shape[d] > 1 && t.stride[d] * size % unit != 0) return false;
  }
  return true;
}

constexpr int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

constexpr int64_t round_up(int64_t a, int64_t b) {
  return divide_up(a, b) * b;
}

// Grids take unsigned extents; callers have checked that theirs fit.
inline dim3 grid_of(int64_t x, int64_t y = 1, int64_t z = 1) {
  return {static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z)};
}

}  // namespace longhaul::cuda
