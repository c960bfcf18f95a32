// Warpgroup matrix multiplication: queued when issued, computed when waited for, so that an accumulator read
// too early holds its old values and a tile overwritten too early gives wrong ones.
#pragma once

#include <cstdint>

namespace longhaul::emulator {

enum class MatrixType : uint8_t { kBf16, kF16 };

// d[64][n] (+)= a[64][16] b[n][16]^T of one instruction, as one thread issues it.
struct Wgmma {
  float* d = nullptr;  // this thread's n/2 accumulators
  int n = 0;
  MatrixType type = MatrixType::kBf16;
  bool accumulate = true;  // false: d is overwritten
  bool a_in_registers = false;
  uint32_t a_registers[4] = {};
  uint64_t a = 0;  // matrix descriptors
  uint64_t b = 0;
  bool b_transposed = false;  // the tile is stored with N contiguous instead of K
};

void wgmma_issue(const Wgmma& operation);
void wgmma_commit();
void wgmma_wait(int groups);
void drop_wgmma();

}  // namespace longhaul::emulator
