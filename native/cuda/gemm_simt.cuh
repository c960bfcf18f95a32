// What the f32 kernels share: reading x where it is neither padded nor aligned, and the choice of element
// types.
#pragma once

#include "cuda/element.cuh"
#include "cuda/gemm_problem.h"

namespace longhaul::cuda {

// x[k..k + kCount) of a row that starts at `row`, zeros from `cols` on. `aligned`: rows start at multiples of
// 16 bytes.
template <class X, int kCount>
__device__ __forceinline__ void load_x_floats(const X* row, int k, int cols, bool aligned,
                                              float (&out)[kCount]) {
  if (aligned && k + kCount <= cols) {
    load_floats(row + k, out);
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) out[i] = k + i < cols ? to_float(row[k + i]) : 0.0f;
  }
}

// Calls visit with the ElementTypes of x and of the weight: any but bf16 with bf16, which has tensor cores.
template <class Visit>
cudaError_t visit_operands(const GemmProblem& p, Visit&& visit) {
  if (p.x_type == DType::kF32) {
    return visit_storage(p.weight_type, [&](auto weight) { return visit(ElementType<float>{}, weight); });
  }
  if (p.weight_type == DType::kF16) return visit(ElementType<__nv_bfloat16>{}, ElementType<__half>{});
  return visit(ElementType<__nv_bfloat16>{}, ElementType<float>{});
}

}  // namespace longhaul::cuda
