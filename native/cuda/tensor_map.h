// The descriptor of a tensor for the bulk copy engine: a CUtensorMap on hardware, what it says in plain fields
// on the emulator. Passed to kernels by value, as `const __grid_constant__ TensorMap`.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#if defined(__CUDACC__)
#include <cuda.h>
#else
#include "emulator/tensor_copy.h"
#endif

namespace longhaul::cuda {

#if defined(__CUDACC__)
using TensorMap = CUtensorMap;
#else
using TensorMap = emulator::TensorMap;
#endif

enum class TensorElement : unsigned char { kBf16, kF16, kF32 };

// Dimension 0 is contiguous; strides in bytes are multiples of 16, for dimensions 1 and up (stride_bytes[0] is
// not read).
struct TensorMapArgs {
  TensorElement element;
  int rank;          // 2 to 5
  const void* base;  // 16-aligned
  int64_t size[5];
  int64_t stride_bytes[5];
  int box[5];         // at most 256 elements each; box[0] is at most swizzle_bytes wide
  int swizzle_bytes;  // 0, 32, 64 or 128
};

// cudaErrorInvalidValue when the arguments break a rule above, cudaErrorNotSupported when the driver has no
// such call.
cudaError_t encode_tensor_map(const TensorMapArgs& args, TensorMap& map);

}  // namespace longhaul::cuda
