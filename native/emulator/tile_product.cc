#include "emulator/tile_product.h"

#include <cstring>

namespace longhaul::emulator {

void multiply_tile_16x8(float* c, const float* a, const float* b, int depth) {
  for (int i = 0; i < 16; ++i) {
    float sum[8];
    std::memcpy(sum, c + i * 8, sizeof sum);
    for (int k = 0; k < depth; ++k)
      for (int j = 0; j < 8; ++j) sum[j] += a[i * depth + k] * b[k * 8 + j];
    std::memcpy(c + i * 8, sum, sizeof sum);
  }
}

void multiply_tile_k16(float* c, const float* a, const float* b, int rows, int columns) {
  float across[16 * 256];  // b transposed, so that the inner loop runs along a row of c
  for (int j = 0; j < columns; ++j)
    for (int k = 0; k < 16; ++k) across[k * columns + j] = b[j * 16 + k];
  for (int i = 0; i < rows; ++i)
    for (int k = 0; k < 16; ++k)
      for (int j = 0; j < columns; ++j) c[i * columns + j] += a[i * 16 + k] * across[k * columns + j];
}

float f16_to_float(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t exponent = bits >> 10 & 0x1f, mantissa = bits & 0x3ff;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  const uint32_t rebiased = exponent == 31 ? 0xffu : exponent + 112;
  return __builtin_bit_cast(float, sign | rebiased << 23 | mantissa << 13);
}

}  // namespace longhaul::emulator
