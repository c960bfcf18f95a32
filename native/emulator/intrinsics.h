// The names CUDA C++ gives to device code without an include: built-in variables, barriers, arithmetic,
// atomics.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "emulator/barrier.h"
#include "emulator/block.h"

#define threadIdx (::longhaul::emulator::current_fiber->tid)
#define blockIdx (::longhaul::emulator::current_block->index)
#define blockDim (::longhaul::emulator::current_block->block_dim)
#define gridDim (::longhaul::emulator::current_block->grid_dim)

// Macros, so that reports and the check for divergence know the line.
#define LONGHAUL_EMULATOR_TEXT_INNER(x) #x
#define LONGHAUL_EMULATOR_TEXT(x) LONGHAUL_EMULATOR_TEXT_INNER(x)
#define LONGHAUL_EMULATOR_HERE(what) what " at line " LONGHAUL_EMULATOR_TEXT(__LINE__)
#define __syncthreads() ::longhaul::emulator::barrier_sync(0, 0, LONGHAUL_EMULATOR_HERE("__syncthreads()"))
#define __syncthreads_count(predicate)                                                            \
  ::longhaul::emulator::barrier_reduce(::longhaul::emulator::Reduction::kCount, (predicate) != 0, \
                                       LONGHAUL_EMULATOR_HERE("__syncthreads_count()"))
#define __syncthreads_and(predicate)                                                            \
  ::longhaul::emulator::barrier_reduce(::longhaul::emulator::Reduction::kAnd, (predicate) != 0, \
                                       LONGHAUL_EMULATOR_HERE("__syncthreads_and()"))
#define __syncthreads_or(predicate)                                                            \
  ::longhaul::emulator::barrier_reduce(::longhaul::emulator::Reduction::kOr, (predicate) != 0, \
                                       LONGHAUL_EMULATOR_HERE("__syncthreads_or()"))

// Memory order between blocks is beyond the emulator: blocks run one after the other.
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
inline void __nanosleep(unsigned) {}
[[noreturn]] inline void __trap() {
  longhaul::emulator::fail("__trap()");
}

template <class A, class B>
constexpr std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  return T(b) < T(a) ? T(b) : T(a);
}
template <class A, class B>
constexpr std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  return T(a) < T(b) ? T(b) : T(a);
}

inline uint32_t __float_as_uint(float x) {
  return std::bit_cast<uint32_t>(x);
}
inline int __float_as_int(float x) {
  return std::bit_cast<int>(x);
}
inline float __uint_as_float(uint32_t x) {
  return std::bit_cast<float>(x);
}
inline float __int_as_float(int x) {
  return std::bit_cast<float>(x);
}
inline long long __double_as_longlong(double x) {
  return std::bit_cast<long long>(x);
}
inline double __longlong_as_double(long long x) {
  return std::bit_cast<double>(x);
}

inline int __popc(uint32_t x) {
  return std::popcount(x);
}
inline int __popcll(unsigned long long x) {
  return std::popcount(x);
}
inline int __clz(int x) {
  return std::countl_zero(static_cast<uint32_t>(x));
}
inline int __clzll(long long x) {
  return std::countl_zero(static_cast<unsigned long long>(x));
}
inline int __ffs(int x) {
  return __builtin_ffs(x);
}
inline int __ffsll(long long x) {
  return __builtin_ffsll(x);
}
inline uint32_t __brev(uint32_t x) {
  x = (x >> 1 & 0x55555555u) | (x & 0x55555555u) << 1;
  x = (x >> 2 & 0x33333333u) | (x & 0x33333333u) << 2;
  x = (x >> 4 & 0x0f0f0f0fu) | (x & 0x0f0f0f0fu) << 4;
  return __builtin_bswap32(x);
}
inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t both = uint64_t{b} << 32 | a;
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t pick = selector >> 4 * i & 0xf;
    uint32_t byte = static_cast<uint32_t>(both >> 8 * (pick & 7)) & 0xff;
    if (pick & 8) byte = byte & 0x80 ? 0xff : 0;  // replicates the sign
    out |= byte << 8 * i;
  }
  return out;
}
inline uint32_t __umulhi(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>(uint64_t{a} * b >> 32);
}
inline int __mulhi(int a, int b) {
  return static_cast<int>(int64_t{a} * b >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<unsigned long long>(Wide{a} * b >> 64);
}

inline float __fmaf_rn(float a, float b, float c) {
  return std::fma(a, b, c);
}
inline float __fmul_rn(float a, float b) {
  return a * b;
}
inline float __fadd_rn(float a, float b) {
  return a + b;
}
inline float __fsub_rn(float a, float b) {
  return a - b;
}
inline float __fdiv_rn(float a, float b) {
  return a / b;
}
inline float __frcp_rn(float x) {
  return 1.0f / x;
}
inline float __fsqrt_rn(float x) {
  return std::sqrt(x);
}
inline double __dmul_rn(double a, double b) {
  return a * b;
}
inline double __dadd_rn(double a, double b) {
  return a + b;
}
inline float __expf(float x) {
  return std::exp(x);
}
inline float __logf(float x) {
  return std::log(x);
}
inline float __log2f(float x) {
  return std::log2(x);
}
inline float __sinf(float x) {
  return std::sin(x);
}
inline float __cosf(float x) {
  return std::cos(x);
}
inline float __fdividef(float a, float b) {
  return a / b;
}
inline float __saturatef(float x) {
  return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f;
}
inline float rsqrtf(float x) {
  return 1.0f / std::sqrt(x);
}
inline double rsqrt(double x) {
  return 1.0 / std::sqrt(x);
}
inline int __float2int_rn(float x) {
  return static_cast<int>(std::nearbyint(x));
}
inline int __float2int_rd(float x) {
  return static_cast<int>(std::floor(x));
}
inline int __float2int_ru(float x) {
  return static_cast<int>(std::ceil(x));
}
inline int __float2int_rz(float x) {
  return static_cast<int>(x);
}
inline float __int2float_rn(int x) {
  return static_cast<float>(x);
}
inline float __uint2float_rn(uint32_t x) {
  return static_cast<float>(x);
}

// Cache hints of loads and stores: no caches here.
template <class T>
inline T __ldg(const T* p) {
  return *p;
}
template <class T>
inline T __ldcs(const T* p) {
  return *p;
}
template <class T>
inline T __ldcg(const T* p) {
  return *p;
}
template <class T>
inline T __ldca(const T* p) {
  return *p;
}
template <class T>
inline void __stcs(T* p, std::type_identity_t<T> value) {
  *p = value;
}
template <class T>
inline void __stcg(T* p, std::type_identity_t<T> value) {
  *p = value;
}

// Fibers of one OS thread: a read and a write with no yield between them are atomic.
template <class T, class Update>
__attribute__((no_sanitize("thread"))) inline T longhaul_emulator_atomic(T* p, Update update) {
  longhaul::emulator::note_atomic(p, sizeof(T));
  const T old = *p;
  *p = static_cast<T>(update(old));
  return old;
}
template <class T>
inline T atomicAdd(T* p, std::type_identity_t<T> v) {
  return longhaul_emulator_atomic(p, [v](T old) { return old + v; });
}
template <class T>
inline T atomicSub(T* p, std::type_identity_t<T> v) {
  return longhaul_emulator_atomic(p, [v](T old) { return old - v; });
}
template <class T>
inline T atomicMax(T* p, std::type_identity_t<T> v) {
  return longhaul_emulator_atomic(p, [v](T old) { return old < v ? v : old; });
}
template <class T>
inline T atomicMin(T* p, std::type_identity_t<T> v) {
  return longhaul_emulator_atomic(p, [v](T old) { return v < old ? v : old; });
}
template <class T>
inline T atomicAnd(T* p, std::type_identity_t<T> v) {
  return longhaul_emulator_atomic(p, [v](T old) { return old & v; });
}
template <class T>
inline T atomicOr(T* p, std::type_identity_t<T> v) {
  return longhaul_emulator_atomic(p, [v](T old) { return old | v; });
}
template <class T>
inline T atomicXor(T* p, std::type_identity_t<T> v) {
  return longhaul_emulator_atomic(p, [v](T old) { return old ^ v; });
}
template <class T>
inline T atomicExch(T* p, std::type_identity_t<T> v) {
  return longhaul_emulator_atomic(p, [v](T) { return v; });
}
template <class T>
inline T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> v) {
  return longhaul_emulator_atomic(p, [=](T old) { return old == expected ? v : old; });
}
inline unsigned atomicInc(unsigned* p, unsigned limit) {
  return longhaul_emulator_atomic(p, [limit](unsigned old) { return old >= limit ? 0u : old + 1; });
}
