// What the ops that multiply by packed weights share: how x is interleaved for a dtype of weights, and tasks.
#pragma once

#include <cstdint>

#include "cpu/backend.h"
#include "cpu/pack.h"

namespace longhaul::cpu {

// Largest task: sums of kTaskGroups groups of rows x kTaskPanels panels lie in a slot's scratch memory.
constexpr int64_t kTaskGroups = 8;
constexpr int64_t kTaskPanels = 16;
// Tasks for each thread: enough that one which loses its core is made up for by the others.
constexpr int64_t kTasksPerThread = 4;
// Multiply-adds below which waking other threads costs more than they save.
constexpr int64_t kWorthThreads = int64_t{1} << 18;
// The largest row_group of any instruction set: what workspaces must assume.
constexpr int64_t kMaxRowGroup = 14;

static_assert(kTaskGroups * kMaxRowGroup * kTaskPanels * kPanel * sizeof(float) <= CpuStream::kScratchBytes);

inline int64_t ceil_div(int64_t value, int64_t divisor) {
  return (value + divisor - 1) / divisor;
}

// How x is interleaved and the product computed for one dtype of weights.
struct ProductPlan {
  void (*pack)(const PackRows&);
  void (*multiply)(const GemmBlock&);
  int64_t x_bytes;  // of one value of K of one row, packed
};

inline ProductPlan plan_for(const DenseKernels& kernels, DType weights) {
  switch (weights) {
    case DType::kBf16:
      if (kernels.bf16_pairs) return {kernels.pack_pairs, kernels.gemm_bf16, 2};
      return {kernels.pack_f32, kernels.gemm_bf16, 4};
    case DType::kF16:
      return {kernels.pack_f32, kernels.gemm_f16, 4};
    default:
      return {kernels.pack_f32, kernels.gemm_f32, 4};
  }
}

// Bytes of one panel that stay in the first-level cache while the groups of a task take turns on them.
constexpr int64_t kBlockBytes = 16 * 1024;

// Tasks over threads, or all here when there is little to do.
template <class Body>
void for_tasks(CpuStream& stream, bool parallel, int64_t tasks, Body&& body) {
  if (parallel) {
    stream.parallel_for(tasks, body);
  } else {
    for (int64_t task = 0; task < tasks; ++task) body(task, 0);
  }
}

// Multiplies `rows` packed rows (whole groups, then a smaller one) over values [begin, begin + block.depth) of
// K. `x` is the first group, x_group bytes each; block.w and block.acc are those of the first panel and row.
inline void multiply_rows(const ProductPlan& plan, GemmBlock block, const char* x, int64_t rows,
                          int64_t group_rows, int64_t begin) {
  // Within a group K is the outer dimension, so a group of r rows begins r values on for every k.
  const int64_t full = rows / group_rows;
  if (full > 0) {
    block.x = x + begin * group_rows * plan.x_bytes;
    block.rows = static_cast<int>(full * group_rows);
    plan.multiply(block);
  }
  if (const int64_t rest = rows % group_rows; rest != 0) {
    block.x = x + full * block.x_group + begin * rest * plan.x_bytes;
    block.acc += full * group_rows * block.acc_stride;
    block.rows = static_cast<int>(rest);
    plan.multiply(block);
  }
}

}  // namespace longhaul::cpu
