// Weights on the GPU: row-major [rows, pitch], rows padded with zeros to whole 128-byte lines, so that a tile
// of K can be read without looking at its edge, by cp.async as well as by TMA.
#pragma once

#include "core/backend.h"

namespace longhaul::cuda {

constexpr int64_t kWeightPitchBytes = 128;

// Elements from one row to the next.
inline int64_t weight_pitch(int64_t cols, DType dtype) {
  const int64_t line = kWeightPitchBytes / static_cast<int64_t>(size_of(dtype));
  return (cols + line - 1) / line * line;
}

}  // namespace longhaul::cuda
