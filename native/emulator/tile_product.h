// The arithmetic of one matrix instruction on small f32 tiles, apart so that it is always compiled for speed:
// it touches no memory a sanitizer or the race detector watches.
#pragma once

#include <cstdint>

namespace longhaul::emulator {

// c[16][8] += a[16][depth] b[depth][8]; products exact, sums in f32 in the order of k.
void multiply_tile_16x8(float* c, const float* a, const float* b, int depth);

// c[rows][columns] += a[rows][16] b[columns][16]^T.
void multiply_tile_k16(float* c, const float* a, const float* b, int rows, int columns);

float f16_to_float(uint16_t bits);
inline float bf16_to_float(uint16_t bits) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(bits) << 16);
}

}  // namespace longhaul::emulator
