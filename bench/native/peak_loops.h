// Loops that do nothing but the one instruction whose peak rate is asked for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace longhaul::bench {

struct PeakLoop {
  const char* kind;  // "f32", "bf16", "int8"
  const char* isa;   // what the loop needs: "generic", "avx2", "avx512", ...
  int64_t operations_per_round;
  void (*run)(int64_t rounds);
};

// Those that this processor has; a kind's fastest last.
std::vector<PeakLoop> peak_loops();

// Reads `bytes` (a multiple of 4096) at `data` once, with the widest loads of this processor.
struct ReadLoop {
  const char* name;
  void (*run)(const void* data, size_t bytes);
};
std::vector<ReadLoop> read_loops();

}  // namespace longhaul::bench
