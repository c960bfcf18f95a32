#include "cuda/device.cuh"
#include "cuda/tensor_map.h"

namespace longhaul::cuda {
namespace {

constexpr int kMaxBox = 256;

int element_bytes(TensorElement element) {
  return element == TensorElement::kF32 ? 4 : 2;
}

bool valid(const TensorMapArgs& args) {
  if (args.rank < 2 || args.rank > 5 || reinterpret_cast<uintptr_t>(args.base) % 16 != 0) return false;
  for (int d = 0; d < args.rank; ++d) {
    if (args.size[d] < 1 || args.box[d] < 1 || args.box[d] > kMaxBox) return false;
    if (d > 0 && (args.stride_bytes[d] % 16 != 0 || args.stride_bytes[d] <= 0)) return false;
  }
  const int width = args.box[0] * element_bytes(args.element);
  return width % 16 == 0 && (args.swizzle_bytes == 0 || width <= args.swizzle_bytes);
}

}  // namespace

#if defined(__CUDACC__)

cudaError_t encode_tensor_map(const TensorMapArgs& args, TensorMap& map) {
  if (!valid(args)) return cudaErrorInvalidValue;
  // Asked for at run time, so that the library needs no libcuda.so to load.
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found{};
  if (cudaError_t e =
          cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found);
      e != cudaSuccess)
    return e;
  if (found != cudaDriverEntryPointSuccess) return cudaErrorNotSupported;
  const auto encode = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(entry);

  cuuint64_t size[5], stride[5];
  cuuint32_t box[5], step[5];
  for (int d = 0; d < args.rank; ++d) {
    size[d] = static_cast<cuuint64_t>(args.size[d]);
    box[d] = static_cast<cuuint32_t>(args.box[d]);
    step[d] = 1;
    if (d > 0) stride[d - 1] = static_cast<cuuint64_t>(args.stride_bytes[d]);
  }
  const CUtensorMapDataType type = args.element == TensorElement::kBf16  ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                   : args.element == TensorElement::kF16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                                                         : CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
  const CUtensorMapSwizzle swizzle = args.swizzle_bytes == 128  ? CU_TENSOR_MAP_SWIZZLE_128B
                                     : args.swizzle_bytes == 64 ? CU_TENSOR_MAP_SWIZZLE_64B
                                     : args.swizzle_bytes == 32 ? CU_TENSOR_MAP_SWIZZLE_32B
                                                                : CU_TENSOR_MAP_SWIZZLE_NONE;
  const CUresult result = encode(&map, type, static_cast<cuuint32_t>(args.rank), const_cast<void*>(args.base),
                                 size, stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

#else

cudaError_t encode_tensor_map(const TensorMapArgs& args, TensorMap& map) {
  if (!valid(args)) return cudaErrorInvalidValue;
  map = {};
  map.base = args.base;
  map.rank = args.rank;
  map.element_bytes = element_bytes(args.element);
  map.swizzle_bytes = args.swizzle_bytes;
  for (int d = 0; d < args.rank; ++d) {
    map.size[d] = args.size[d];
    map.stride_bytes[d] = d == 0 ? map.element_bytes : args.stride_bytes[d];
    map.box[d] = args.box[d];
  }
  return cudaSuccess;
}

#endif

}  // namespace longhaul::cuda
