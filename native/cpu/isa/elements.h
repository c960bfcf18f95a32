// Rows of f32 or bf16 as vectors, to their last element. Only files in native/cpu/isa include it.
#pragma once

#include "cpu/isa/dense_kernels.h"
#include "cpu/isa/simd.h"

namespace longhaul::LONGHAUL_ISA_NAMESPACE {

using cpu::Element;

LONGHAUL_INLINE Vec read(const float* p) {
  return load(p);
}
LONGHAUL_INLINE Vec read(const uint16_t* p) {
  return load_bf16(p);
}
LONGHAUL_INLINE void write(float* p, Vec x) {
  store(p, x);
}
LONGHAUL_INLINE void write(uint16_t* p, Vec x) {
  store_bf16(p, x);
}

// `n` < kLanes elements; the other lanes are zero.
template <class T>
LONGHAUL_INLINE Vec read_part(const T* p, int64_t n) {
  T lane[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) lane[i] = p[i];
  return read(lane);
}
template <class T>
LONGHAUL_INLINE void write_part(T* p, Vec x, int64_t n) {
  T lane[kLanes];
  write(lane, x);
  for (int64_t i = 0; i < n; ++i) p[i] = lane[i];
}

template <class T>
LONGHAUL_INLINE Vec read_at(const T* p, int64_t i, int64_t n) {
  return i + kLanes <= n ? read(p + i) : read_part(p + i, n - i);
}
template <class T>
LONGHAUL_INLINE void write_at(T* p, int64_t i, int64_t n, Vec x) {
  if (i + kLanes <= n) {
    write(p + i, x);
  } else {
    write_part(p + i, x, n - i);
  }
}

// Calls `body` with the pointer in its real type: f32 or the bits of bf16.
template <class Body>
LONGHAUL_INLINE void typed(void* p, Element type, Body body) {
  type == Element::kF32 ? body(static_cast<float*>(p)) : body(static_cast<uint16_t*>(p));
}
template <class Body>
LONGHAUL_INLINE void typed(const void* p, Element type, Body body) {
  type == Element::kF32 ? body(static_cast<const float*>(p)) : body(static_cast<const uint16_t*>(p));
}

}  // namespace longhaul::LONGHAUL_ISA_NAMESPACE
