// What this machine can do at most: reading memory, reading cache, multiplying. Measured in the process that
// then measures the ops.
#pragma once

#include <string>
#include <vector>

#include "core/backend.h"
#include "measure.h"

namespace longhaul::bench {

struct Ceiling {
  std::string name;  // "read.memory", "read.shared-cache", "f32.avx512", "bf16.avx512bf16", ...
  int threads = 1;
  std::string unit;    // "B/s", "FLOP/s", "OP/s"
  std::string detail;  // which loop was fastest
  double best = 0;     // per second, all threads together
  double median = 0;
};

struct CeilingLimits {
  double seconds = 1.0;  // for each
  size_t memory_bytes = size_t{256} << 20;
};

// Buffers come from `backend`, so that they lie on the pages that its tensors lie on.
Result<std::vector<Ceiling>> measure_ceilings(Backend& backend, int threads, const CeilingLimits& limits);

// Of the GPU behind `backend`: "read.memory" is a copy within its memory, bytes read and bytes written counted;
// "bf16.tensor-cores" is a product of 8192 x 8192 x 8192 random numbers, by cuBLAS where it is found or by our
// own kernel, whichever is faster.
Result<std::vector<Ceiling>> measure_gpu_ceilings(Backend& backend, const CeilingLimits& limits);

}  // namespace longhaul::bench
