// One vector of f32 lanes of the instruction set being compiled (LONGHAUL_ISA), and the few operations the
// kernels use. Only files in native/cpu/isa include it.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(LONGHAUL_ISA_avx2) || defined(LONGHAUL_ISA_avx512) || defined(LONGHAUL_ISA_avx512bf16)
#ifdef __clang__
#include <immintrin.h>
#else
// GCC 12 takes the intrinsics' own "undefined" operands for mistakes of ours.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif
#endif
#if defined(LONGHAUL_ISA_avx512) || defined(LONGHAUL_ISA_avx512bf16)
#define LONGHAUL_ISA_512 1
#endif

#define LONGHAUL_ISA_NAME(isa) isa_##isa
#define LONGHAUL_ISA_EXPAND(isa) LONGHAUL_ISA_NAME(isa)
#define LONGHAUL_ISA_NAMESPACE LONGHAUL_ISA_EXPAND(LONGHAUL_ISA)

// Everything here is inlined: a call between vectors would spill them all.
#define LONGHAUL_INLINE inline __attribute__((always_inline))

namespace longhaul::LONGHAUL_ISA_NAMESPACE {

// ---- scalars (core/dtype.h's are not used here: the linker may share one copy of an inline function) --------

LONGHAUL_INLINE float float_of_bits(uint32_t bits) {
  return __builtin_bit_cast(float, bits);
}
LONGHAUL_INLINE uint32_t bits_of_float(float x) {
  return __builtin_bit_cast(uint32_t, x);
}

LONGHAUL_INLINE float bf16_to_f32(uint16_t x) {
  return float_of_bits(static_cast<uint32_t>(x) << 16);
}

// Round to nearest even, NaN kept quiet.
LONGHAUL_INLINE uint16_t f32_to_bf16(float x) {
  uint32_t bits = bits_of_float(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

LONGHAUL_INLINE float f16_to_f32(uint16_t x) {
  const uint32_t sign = static_cast<uint32_t>(x & 0x8000u) << 16;
  const uint32_t magnitude = x & 0x7fffu;
  if (magnitude >= 0x7c00u) return float_of_bits(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
  if (magnitude >= 0x400u) return float_of_bits(sign | ((magnitude << 13) + 0x38000000u));
  const float value = static_cast<float>(magnitude) * 0x1p-24f;
  return sign ? -value : value;
}

LONGHAUL_INLINE uint16_t f32_to_f16(float x) {
  const uint32_t bits = bits_of_float(x);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {
    return static_cast<uint16_t>(sign | (bits_of_float(float_of_bits(magnitude) + 0.5f) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

// ---- vectors ------------------------------------------------------------------------------------------------
// Vec: kLanes f32. fma(a, b, c) = a * b + c, fused where the instruction set can. `load` and `store` need no
// alignment. Sixteen-bit values are passed as their bits.

#if defined(LONGHAUL_ISA_512)

constexpr int kLanes = 16;
using Vec = __m512;

LONGHAUL_INLINE Vec zero() {
  return _mm512_setzero_ps();
}
LONGHAUL_INLINE Vec splat(float x) {
  return _mm512_set1_ps(x);
}
LONGHAUL_INLINE Vec load(const float* p) {
  return _mm512_loadu_ps(p);
}
LONGHAUL_INLINE void store(float* p, Vec x) {
  _mm512_storeu_ps(p, x);
}
LONGHAUL_INLINE Vec load_bf16(const uint16_t* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
// kLanes pairs of neighbours: first ones and second ones.
LONGHAUL_INLINE void load_bf16_pairs(const uint16_t* p, Vec& first, Vec& second) {
  const __m512i bits = _mm512_loadu_si512(p);
  first = _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
  second = _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}
LONGHAUL_INLINE Vec load_f16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
LONGHAUL_INLINE void store_bf16(uint16_t* p, Vec x) {
  // Not vcvtneps2bf16, which flushes denormals: every instruction set stores the same bits.
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i even = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(even, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  const __m512i result = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(result, 16)));
}
LONGHAUL_INLINE void store_f16(uint16_t* p, Vec x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
LONGHAUL_INLINE Vec add(Vec a, Vec b) {
  return _mm512_add_ps(a, b);
}
LONGHAUL_INLINE Vec sub(Vec a, Vec b) {
  return _mm512_sub_ps(a, b);
}
LONGHAUL_INLINE Vec mul(Vec a, Vec b) {
  return _mm512_mul_ps(a, b);
}
LONGHAUL_INLINE Vec div(Vec a, Vec b) {
  return _mm512_div_ps(a, b);
}
LONGHAUL_INLINE Vec max(Vec a, Vec b) {
  return _mm512_max_ps(a, b);
}  // b when either is NaN
LONGHAUL_INLINE Vec min(Vec a, Vec b) {
  return _mm512_min_ps(a, b);
}  // b when either is NaN
LONGHAUL_INLINE Vec fma(Vec a, Vec b, Vec c) {
  return _mm512_fmadd_ps(a, b, c);
}
LONGHAUL_INLINE Vec sqrt(Vec x) {
  return _mm512_sqrt_ps(x);
}
LONGHAUL_INLINE Vec round_even(Vec x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// x * 2^n for whole n in [-160, 160].
LONGHAUL_INLINE Vec scale_by_power(Vec x, Vec n) {
  return _mm512_scalef_ps(x, n);
}
LONGHAUL_INLINE void store_lanes(float* p, Vec x) {
  _mm512_store_ps(p, x);
}

#elif defined(LONGHAUL_ISA_avx2)

constexpr int kLanes = 8;
using Vec = __m256;

LONGHAUL_INLINE Vec zero() {
  return _mm256_setzero_ps();
}
LONGHAUL_INLINE Vec splat(float x) {
  return _mm256_set1_ps(x);
}
LONGHAUL_INLINE Vec load(const float* p) {
  return _mm256_loadu_ps(p);
}
LONGHAUL_INLINE void store(float* p, Vec x) {
  _mm256_storeu_ps(p, x);
}
LONGHAUL_INLINE Vec load_bf16(const uint16_t* p) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
// kLanes pairs of neighbours: first ones and second ones.
LONGHAUL_INLINE void load_bf16_pairs(const uint16_t* p, Vec& first, Vec& second) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  first = _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
  second = _mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}
LONGHAUL_INLINE Vec load_f16(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
LONGHAUL_INLINE void store_bf16(uint16_t* p, Vec x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i even = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(even, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i words = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
  const __m128i low = _mm256_castsi256_si128(words);
  const __m128i high = _mm256_extracti128_si256(words, 1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packus_epi32(low, high));
}
LONGHAUL_INLINE void store_f16(uint16_t* p, Vec x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
LONGHAUL_INLINE Vec add(Vec a, Vec b) {
  return _mm256_add_ps(a, b);
}
LONGHAUL_INLINE Vec sub(Vec a, Vec b) {
  return _mm256_sub_ps(a, b);
}
LONGHAUL_INLINE Vec mul(Vec a, Vec b) {
  return _mm256_mul_ps(a, b);
}
LONGHAUL_INLINE Vec div(Vec a, Vec b) {
  return _mm256_div_ps(a, b);
}
LONGHAUL_INLINE Vec max(Vec a, Vec b) {
  return _mm256_max_ps(a, b);
}  // b when either is NaN
LONGHAUL_INLINE Vec min(Vec a, Vec b) {
  return _mm256_min_ps(a, b);
}  // b when either is NaN
LONGHAUL_INLINE Vec fma(Vec a, Vec b, Vec c) {
  return _mm256_fmadd_ps(a, b, c);
}
LONGHAUL_INLINE Vec sqrt(Vec x) {
  return _mm256_sqrt_ps(x);
}
LONGHAUL_INLINE Vec round_even(Vec x) {
  return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// x * 2^n for whole n in [-160, 160]: in two steps, so that the factors stay normal.
LONGHAUL_INLINE Vec scale_by_power(Vec x, Vec n) {
  const __m256i whole = _mm256_cvtps_epi32(n);
  const __m256i half = _mm256_srai_epi32(whole, 1);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i second = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
  return mul(mul(x, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second));
}
LONGHAUL_INLINE void store_lanes(float* p, Vec x) {
  _mm256_store_ps(p, x);
}

#else

// The compiler's own vectors: SSE2 on x86-64, NEON on AArch64.
constexpr int kLanes = 4;
typedef float Vec __attribute__((vector_size(16)));
typedef int32_t VecInt __attribute__((vector_size(16)));

LONGHAUL_INLINE Vec splat(float x) {
  return Vec{x, x, x, x};
}
LONGHAUL_INLINE Vec zero() {
  return splat(0.0f);
}
LONGHAUL_INLINE Vec load(const float* p) {
  Vec x;
  memcpy(&x, p, sizeof(x));
  return x;
}
LONGHAUL_INLINE void store(float* p, Vec x) {
  memcpy(p, &x, sizeof(x));
}
LONGHAUL_INLINE Vec load_bf16(const uint16_t* p) {
  return Vec{bf16_to_f32(p[0]), bf16_to_f32(p[1]), bf16_to_f32(p[2]), bf16_to_f32(p[3])};
}
// kLanes pairs of neighbours: first ones and second ones.
LONGHAUL_INLINE void load_bf16_pairs(const uint16_t* p, Vec& first, Vec& second) {
  VecInt bits;
  memcpy(&bits, p, sizeof(bits));
  first = reinterpret_cast<Vec>(bits << 16);
  second = reinterpret_cast<Vec>(bits & static_cast<int32_t>(0xffff0000u));
}
LONGHAUL_INLINE Vec load_f16(const uint16_t* p) {
  return Vec{f16_to_f32(p[0]), f16_to_f32(p[1]), f16_to_f32(p[2]), f16_to_f32(p[3])};
}
LONGHAUL_INLINE void store_bf16(uint16_t* p, Vec x) {
  for (int i = 0; i < kLanes; ++i) p[i] = f32_to_bf16(x[i]);
}
LONGHAUL_INLINE void store_f16(uint16_t* p, Vec x) {
  for (int i = 0; i < kLanes; ++i) p[i] = f32_to_f16(x[i]);
}
LONGHAUL_INLINE Vec add(Vec a, Vec b) {
  return a + b;
}
LONGHAUL_INLINE Vec sub(Vec a, Vec b) {
  return a - b;
}
LONGHAUL_INLINE Vec mul(Vec a, Vec b) {
  return a * b;
}
LONGHAUL_INLINE Vec div(Vec a, Vec b) {
  return a / b;
}
LONGHAUL_INLINE Vec max(Vec a, Vec b) {
  return a > b ? a : b;
}  // b when either is NaN
LONGHAUL_INLINE Vec min(Vec a, Vec b) {
  return a < b ? a : b;
}  // b when either is NaN
LONGHAUL_INLINE Vec fma(Vec a, Vec b, Vec c) {
  return a * b + c;
}
LONGHAUL_INLINE Vec sqrt(Vec x) {
  return Vec{__builtin_sqrtf(x[0]), __builtin_sqrtf(x[1]), __builtin_sqrtf(x[2]), __builtin_sqrtf(x[3])};
}
// Whole numbers up to 2^22, ties to even: adding 1.5 * 2^23 pushes the fraction out.
LONGHAUL_INLINE Vec round_even(Vec x) {
  return (x + splat(0x1.8p23f)) - splat(0x1.8p23f);
}
// x * 2^n for whole n in [-160, 160]: in two steps, so that the factors stay normal.
LONGHAUL_INLINE Vec scale_by_power(Vec x, Vec n) {
  const VecInt whole = __builtin_convertvector(n, VecInt);
  const VecInt half = whole >> 1;
  const VecInt first = (half + 127) << 23;
  const VecInt second = (whole - half + 127) << 23;
  return x * reinterpret_cast<Vec>(first) * reinterpret_cast<Vec>(second);
}
LONGHAUL_INLINE void store_lanes(float* p, Vec x) {
  memcpy(p, &x, sizeof(x));
}

#endif

// Lanes are summed in pairs, halving each time: the same order whatever the instruction set.
#if defined(LONGHAUL_ISA_512) || defined(LONGHAUL_ISA_avx2)
#if defined(LONGHAUL_ISA_512)
LONGHAUL_INLINE __m256 lower_half(__m512 x) {
  return _mm512_castps512_ps256(x);
}
LONGHAUL_INLINE __m256 upper_half(__m512 x) {
  return _mm512_extractf32x8_ps(x, 1);
}
LONGHAUL_INLINE __m256 add(__m256 a, __m256 b) {
  return _mm256_add_ps(a, b);
}
LONGHAUL_INLINE __m256 max(__m256 a, __m256 b) {
  return _mm256_max_ps(a, b);
}
#endif
LONGHAUL_INLINE __m128 lower_half(__m256 x) {
  return _mm256_castps256_ps128(x);
}
LONGHAUL_INLINE __m128 upper_half(__m256 x) {
  return _mm256_extractf128_ps(x, 1);
}
LONGHAUL_INLINE float reduce_add(__m128 x) {
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
LONGHAUL_INLINE float reduce_max(__m128 x) {
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}
LONGHAUL_INLINE float reduce_add(__m256 x) {
  return reduce_add(_mm_add_ps(lower_half(x), upper_half(x)));
}
LONGHAUL_INLINE float reduce_max(__m256 x) {
  return reduce_max(_mm_max_ps(lower_half(x), upper_half(x)));
}
#if defined(LONGHAUL_ISA_512)
LONGHAUL_INLINE float reduce_add(__m512 x) {
  return reduce_add(add(lower_half(x), upper_half(x)));
}
LONGHAUL_INLINE float reduce_max(__m512 x) {
  return reduce_max(max(lower_half(x), upper_half(x)));
}
#endif
#else
LONGHAUL_INLINE float reduce_add(Vec x) {
  return (x[0] + x[2]) + (x[1] + x[3]);
}
LONGHAUL_INLINE float reduce_max(Vec x) {
  const float a = x[0] > x[2] ? x[0] : x[2];
  const float b = x[1] > x[3] ? x[1] : x[3];
  return a > b ? a : b;
}
#endif

// e^x within 2 units in the last place; 0 for -inf and below -104, inf above 88.8, NaN kept.
LONGHAUL_INLINE Vec exp(Vec x) {
  x = max(splat(-110.0f), min(splat(90.0f), x));
  const Vec n = round_even(mul(x, splat(0x1.715476p+0f)));
  // ln 2 in two parts: n * high is exact.
  Vec r = fma(n, splat(-0x1.62e400p-1f), x);
  r = fma(n, splat(-0x1.7f7d1cp-20f), r);
  // Taylor's series to the seventh power: |r| <= ln(2) / 2 leaves an error of 5e-9.
  Vec p = splat(1.0f / 5040);
  p = fma(p, r, splat(1.0f / 720));
  p = fma(p, r, splat(1.0f / 120));
  p = fma(p, r, splat(1.0f / 24));
  p = fma(p, r, splat(1.0f / 6));
  p = fma(p, r, splat(0.5f));
  p = fma(p, r, splat(1.0f));
  p = fma(p, r, splat(1.0f));
  return scale_by_power(p, n);
}

// 2^x within 2 units in the last place for x <= 0, or as little above as rounding makes it; exactly 1 for 0; 0
// for -inf and below -150, NaN kept.
LONGHAUL_INLINE Vec exp2_nonpositive(Vec x) {
#if defined(LONGHAUL_ISA_512)
  // x less its floor, 0 for -inf; scalef takes the floor itself, and any.
  const Vec r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  const Vec n = x;
#else
  x = max(splat(-160.0f), x);
  const Vec n = round_even(sub(x, splat(0.5f)));
  const Vec r = sub(x, n);
#endif
  // The fifth-degree polynomial nearest to 2^r in [0, 1] with 2^0 = 1: its error is 8e-8.
  Vec p = splat(0x1.e974fcp-10f);
  p = fma(p, r, splat(0x1.277854p-7f));
  p = fma(p, r, splat(0x1.c91ce6p-5f));
  p = fma(p, r, splat(0x1.ebdb56p-3f));
  p = fma(p, r, splat(0x1.62e4bap-1f));
  p = fma(p, r, splat(1.0f));
  return scale_by_power(p, n);
}

}  // namespace longhaul::LONGHAUL_ISA_NAMESPACE
