#include "peak_loops.h"

#include <cstring>

namespace longhaul::bench {
namespace {

// Baseline vectors of 16 bytes: what a compiler makes of plain code, and what the generic kernels are made of.
using Vector4 = float __attribute__((vector_size(16)));

void generic_f32(int64_t rounds) {
  Vector4 sums[12] = {};
  const Vector4 a = {1e-3f, 2e-3f, 3e-3f, 4e-3f}, b = {4e-3f, 3e-3f, 2e-3f, 1e-3f};
  for (int64_t i = 0; i < rounds; ++i) {
    for (Vector4& sum : sums) sum = sum + a * b;
    asm volatile("" ::: "memory");
  }
  volatile float sink = 0;
  for (const Vector4& sum : sums) sink = sink + sum[0];
}

// The sum of words keeps the loads alive.
void generic_read(const void* data, size_t bytes) {
  using Words = uint64_t __attribute__((vector_size(16)));
  const auto* at = static_cast<const Words*>(data);
  Words sums[4] = {};
  for (size_t i = 0; i < bytes / sizeof(Words); i += 4) {
    for (size_t j = 0; j < 4; ++j) sums[j] |= at[i + j];
  }
  volatile uint64_t sink = 0;
  for (const Words& sum : sums) sink = sink | sum[0];
}

#ifdef __x86_64__

// Operands of small finite numbers, not zeros: the values decide how much power the multipliers take, and so
// the clock.
alignas(64) float f32_operand[16];
alignas(64) uint16_t bf16_operand[32];
alignas(64) uint8_t int8_operand[64];

void fill_operands() {
  for (int i = 0; i < 16; ++i) f32_operand[i] = 1e-3f * static_cast<float>(i - 7);
  for (int i = 0; i < 16; ++i) {
    uint32_t bits;
    std::memcpy(&bits, &f32_operand[i], sizeof bits);
    bf16_operand[2 * i] = bf16_operand[2 * i + 1] = static_cast<uint16_t>(bits >> 16);
  }
  for (int i = 0; i < 64; ++i) int8_operand[i] = static_cast<uint8_t>(3 * i);
}

// Twelve independent sums in sixteen registers, and twelve more where there are thirty-two: as many as the
// latency of the instruction times the units that run it, whatever these are.
#define LONGHAUL_ONE(op, reg, to) op " %%" reg "14, %%" reg "15, %%" reg #to "\n\t"
#define LONGHAUL_FOUR(op, reg, a, b, c, d) \
  LONGHAUL_ONE(op, reg, a) LONGHAUL_ONE(op, reg, b) LONGHAUL_ONE(op, reg, c) LONGHAUL_ONE(op, reg, d)
#define LONGHAUL_LOW(op, reg)        \
  LONGHAUL_FOUR(op, reg, 0, 1, 2, 3) \
  LONGHAUL_FOUR(op, reg, 4, 5, 6, 7) \
  LONGHAUL_FOUR(op, reg, 8, 9, 10, 11)
#define LONGHAUL_HIGH(op, reg)           \
  LONGHAUL_FOUR(op, reg, 16, 17, 18, 19) \
  LONGHAUL_FOUR(op, reg, 20, 21, 22, 23) \
  LONGHAUL_FOUR(op, reg, 24, 25, 26, 27)
// Registers 16 and up need no clobber: this file is compiled for processors without them.
#define LONGHAUL_PEAK_LOOP(name, reg, operand, clear, body)                                                 \
  void name(int64_t rounds) {                                                                               \
    asm volatile("vmovups (%1), %%" reg "14\n\tvmovups (%1), %%" reg "15\n\t" clear "1:\n\t" body           \
                 "dec %0\n\tjnz 1b\n\tvzeroupper"                                                           \
                 : "+r"(rounds)                                                                             \
                 : "r"(operand)                                                                             \
                 : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
                   "xmm11", "xmm14", "xmm15", "cc", "memory");                                              \
  }
#define LONGHAUL_YMM_LOOP(name, op, clear, operand) \
  LONGHAUL_PEAK_LOOP(name, "ymm", operand, LONGHAUL_LOW(clear, "ymm"), LONGHAUL_LOW(op, "ymm"))
#define LONGHAUL_ZMM_LOOP(name, op, clear, operand)                                                \
  LONGHAUL_PEAK_LOOP(name, "zmm", operand, LONGHAUL_LOW(clear, "zmm") LONGHAUL_HIGH(clear, "zmm"), \
                     LONGHAUL_LOW(op, "zmm") LONGHAUL_HIGH(op, "zmm"))

// The sums start from a product of the operands, or from their bits: finite, and small, either way.
LONGHAUL_YMM_LOOP(avx2_f32, "vfmadd231ps", "vmulps", f32_operand)
LONGHAUL_ZMM_LOOP(avx512_f32, "vfmadd231ps", "vmulps", f32_operand)
LONGHAUL_ZMM_LOOP(avx512_bf16, "vdpbf16ps", "vmulps", bf16_operand)
LONGHAUL_ZMM_LOOP(avx512_int8, "vpdpbusd", "vpaddd", int8_operand)
LONGHAUL_YMM_LOOP(avx_vnni_int8, "%{vex%} vpdpbusd", "vpaddd", int8_operand)

// Which way of reading is fastest differs between machines: one stream, one with lines asked for ahead, or four
// streams at once. Each round takes four vectors.
#define LONGHAUL_READ(merge, reg, at, to) merge " " at ", %%" reg #to ", %%" reg #to "\n\t"
#define LONGHAUL_READ_LOOP(name, reg, width, ahead, merge, second, third, fourth, step)                   \
  void name(const void* data, size_t bytes) {                                                             \
    const char* at = static_cast<const char*>(data);                                                      \
    const size_t quarter = bytes / 4;                                                                     \
    const char* end = at + (step == width ? quarter : bytes);                                             \
    asm volatile("1:\n\t" ahead LONGHAUL_READ(merge, reg, "(%0)", 0) LONGHAUL_READ(merge, reg, second, 1) \
                     LONGHAUL_READ(merge, reg, third, 2) LONGHAUL_READ(                                   \
                         merge, reg, fourth, 3) "add %4, %0\n\tcmp %1, %0\n\tjb 1b\n\tvzeroupper"         \
                 : "+r"(at)                                                                               \
                 : "r"(end), "r"(quarter), "r"(3 * quarter), "n"(step)                                    \
                 : "xmm0", "xmm1", "xmm2", "xmm3", "cc", "memory");                                       \
  }
#define LONGHAUL_AHEAD_2 "prefetcht0 2048(%0)\n\tprefetcht0 2112(%0)\n\t"
#define LONGHAUL_AHEAD_4 LONGHAUL_AHEAD_2 "prefetcht0 2176(%0)\n\tprefetcht0 2240(%0)\n\t"
#define LONGHAUL_READ_ROW(name, reg, width, ahead, merge)                                                   \
  LONGHAUL_READ_LOOP(name, reg, width, ahead, merge, #width "(%0)", "2*" #width "(%0)", "3*" #width "(%0)", \
                     4 * width)
#define LONGHAUL_READ_FOUR(name, reg, width, merge) \
  LONGHAUL_READ_LOOP(name, reg, width, "", merge, "(%0,%2)", "(%0,%2,2)", "(%0,%3)", width)

LONGHAUL_READ_ROW(avx2_read, "ymm", 32, "", "vorps")
LONGHAUL_READ_ROW(avx2_read_ahead, "ymm", 32, LONGHAUL_AHEAD_2, "vorps")
LONGHAUL_READ_FOUR(avx2_read_four, "ymm", 32, "vorps")
LONGHAUL_READ_ROW(avx512_read, "zmm", 64, "", "vpord")
LONGHAUL_READ_ROW(avx512_read_ahead, "zmm", 64, LONGHAUL_AHEAD_4, "vpord")
LONGHAUL_READ_FOUR(avx512_read_four, "zmm", 64, "vpord")

bool has_avx_vnni() {
  unsigned eax = 7, ebx, ecx = 1, edx;
  asm volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
  return (eax & (1u << 4)) != 0;
}

#endif

}  // namespace

std::vector<PeakLoop> peak_loops() {
  constexpr int64_t kRegisters = 12, kManyRegisters = 24;
  std::vector<PeakLoop> loops = {{"f32", "generic", kRegisters * 4 * 2, generic_f32}};
#ifdef __x86_64__
  __builtin_cpu_init();
  fill_operands();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f");
  if (avx2) loops.push_back({"f32", "avx2", kRegisters * 8 * 2, avx2_f32});
  if (avx512) loops.push_back({"f32", "avx512", kManyRegisters * 16 * 2, avx512_f32});
  if (avx512 && __builtin_cpu_supports("avx512bf16"))
    loops.push_back({"bf16", "avx512bf16", kManyRegisters * 32 * 2, avx512_bf16});
  if (avx2 && has_avx_vnni()) loops.push_back({"int8", "avxvnni", kRegisters * 32 * 2, avx_vnni_int8});
  if (avx512 && __builtin_cpu_supports("avx512vnni"))
    loops.push_back({"int8", "avx512vnni", kManyRegisters * 64 * 2, avx512_int8});
#endif
  return loops;
}

std::vector<ReadLoop> read_loops() {
#ifdef __x86_64__
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) {
    return {{"one stream", avx512_read}, {"prefetched", avx512_read_ahead}, {"four streams", avx512_read_four}};
  }
  if (__builtin_cpu_supports("avx2")) {
    return {{"one stream", avx2_read}, {"prefetched", avx2_read_ahead}, {"four streams", avx2_read_four}};
  }
#endif
  return {{"one stream", generic_read}};
}

}  // namespace longhaul::bench
