// Kernels of routers, LoRA experts and their gradients for one instruction set.
#pragma once

#include <stdint.h>

#include "cpu/isa/dense_kernels.h"

namespace longhaul::cpu {

// Types: f32 or bf16.
struct ExpertKernels {
  // sum_i x[i] * weight[i], in one order whatever else is computed.
  float (*dot)(const void* x, Element type, const float* weight, int64_t n);
  // out[i] = scale * x[i] (+ out[i] with `accumulate`)
  void (*add_scaled)(float scale, const void* x, Element type, void* out, Element out_type, bool accumulate,
                     int64_t n);
  // out[i] = factor[i] * (out[i] + acc[i]) (+ offset[i]); offset may be null.
  void (*store_rescaled)(const float* acc, const float* factor, const float* offset, void* out, Element type,
                         int64_t n);
};

}  // namespace longhaul::cpu
