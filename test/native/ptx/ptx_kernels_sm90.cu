#include "cuda/hopper.cuh"
#include "ptx/ptx_kernels.h"

namespace longhaul::testing {
namespace {

namespace ptx = cuda::ptx;
constexpr int kRowBytes = 128;
constexpr int kMostRows = 128;
constexpr int kDepth = 16;

struct TileStorage {
  alignas(1024) unsigned char tile[kMostRows * kRowBytes];
  ptx::Mbar full;
};

__global__ void tma_load_kernel(const __grid_constant__ cuda::TensorMap map, int column, int row, int rows,
                                uint8_t* out) {
  DYNAMIC_SMEM(raw);
  TileStorage& storage = *reinterpret_cast<TileStorage*>(raw);
  if (threadIdx.x == 0) {
    ptx::mbar_init(&storage.full, 1);
    ptx::mbar_fence_init();
    ptx::mbar_expect(&storage.full, rows * kRowBytes);
    ptx::tma_load_2d(storage.tile, &map, &storage.full, column, row);
  }
  __syncthreads();
  ptx::mbar_wait(&storage.full, 0);
  for (int i = static_cast<int>(threadIdx.x); i < rows * kRowBytes; i += 32) out[i] = storage.tile[i];
}

__global__ void tma_store_kernel(const __grid_constant__ cuda::TensorMap map, int column, int row, int rows,
                                 const uint8_t* shared) {
  DYNAMIC_SMEM(raw);
  TileStorage& storage = *reinterpret_cast<TileStorage*>(raw);
  for (int i = static_cast<int>(threadIdx.x); i < rows * kRowBytes; i += 32) storage.tile[i] = shared[i];
  ptx::fence_async_shared();
  __syncthreads();
  if (threadIdx.x == 0) {
    ptx::tma_store_2d(&map, storage.tile, column, row);
    ptx::tma_store_commit();
    ptx::tma_store_wait<0>();
  }
}

struct ProductStorage {
  alignas(1024) unsigned char a[64 * kRowBytes];
  alignas(1024) unsigned char b[kMostRows * kRowBytes];
};

template <ptx::WgmmaType kType, int kN, bool kTransposedB, bool kRegisters>
__global__ void __launch_bounds__(128, 1) wgmma_kernel(const uint8_t* a_shared, const uint32_t* a,
                                                       const uint8_t* b_shared, const float* c, float* d) {
  DYNAMIC_SMEM(raw);
  ProductStorage& storage = *reinterpret_cast<ProductStorage*>(raw);
  const int thread = static_cast<int>(threadIdx.x);
  constexpr int kBytesB = kTransposedB ? kN / 64 * kDepth * kRowBytes : kN * kRowBytes;
  if constexpr (!kRegisters)
    for (int i = thread; i < 64 * kRowBytes; i += 128) storage.a[i] = a_shared[i];
  for (int i = thread; i < kBytesB; i += 128) storage.b[i] = b_shared[i];
  ptx::fence_async_shared();
  __syncthreads();
  float rd[kN / 2];
#pragma unroll
  for (int i = 0; i < kN / 2; ++i) rd[i] = c[thread * (kN / 2) + i];
  const uint64_t b =
      kTransposedB ? ptx::desc128_transposed(storage.b, kDepth * kRowBytes) : ptx::desc128(storage.b);
  uint32_t ra[4] = {};
  if constexpr (kRegisters)
    for (int i = 0; i < 4; ++i) ra[i] = a[thread * 4 + i];
  ptx::wgmma_fence();
  if constexpr (kRegisters) {
    ptx::wgmma_m64k16<kType, kN, kTransposedB>(rd, ra, b, true);
  } else {
    ptx::wgmma_m64k16<kType, kN, kTransposedB>(rd, ptx::desc128(storage.a), b, true);
  }
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
#pragma unroll
  for (int i = 0; i < kN / 2; ++i) d[thread * (kN / 2) + i] = rd[i];
}

cudaError_t make_map(const uint16_t* matrix, int tensor_rows, int tensor_columns, int rows,
                     cuda::TensorMap& map) {
  return cuda::encode_tensor_map({.element = cuda::TensorElement::kBf16,
                                  .rank = 2,
                                  .base = matrix,
                                  .size = {tensor_columns, tensor_rows},
                                  .stride_bytes = {0, int64_t{2} * tensor_columns},
                                  .box = {kRowBytes / 2, rows},
                                  .swizzle_bytes = 128},
                                 map);
}

template <ptx::WgmmaType kType, bool kRegisters>
cudaError_t choose(int n, bool transposed_b, const uint8_t* a_shared, const uint32_t* a,
                   const uint8_t* b_shared, const float* c, float* d) {
  const auto kernel = n == 64 ? (transposed_b ? wgmma_kernel<kType, 64, true, kRegisters>
                                              : wgmma_kernel<kType, 64, false, kRegisters>)
                              : (transposed_b ? wgmma_kernel<kType, 128, true, kRegisters>
                                              : wgmma_kernel<kType, 128, false, kRegisters>);
  return cuda::launch(kernel, dim3(1), dim3(128), sizeof(ProductStorage), nullptr, a_shared, a, b_shared, c, d);
}

}  // namespace

cudaError_t run_tma_load(const uint16_t* matrix, int tensor_rows, int tensor_columns, int column, int row,
                         int rows, uint8_t* out) {
  cuda::TensorMap map;
  if (const cudaError_t error = make_map(matrix, tensor_rows, tensor_columns, rows, map); error != cudaSuccess)
    return error;
  return cuda::launch(tma_load_kernel, dim3(1), dim3(32), sizeof(TileStorage), nullptr, map, column, row, rows,
                      out);
}

cudaError_t run_tma_store(uint16_t* matrix, int tensor_rows, int tensor_columns, int column, int row, int rows,
                          const uint8_t* shared) {
  cuda::TensorMap map;
  if (const cudaError_t error = make_map(matrix, tensor_rows, tensor_columns, rows, map); error != cudaSuccess)
    return error;
  return cuda::launch(tma_store_kernel, dim3(1), dim3(32), sizeof(TileStorage), nullptr, map, column, row, rows,
                      shared);
}

cudaError_t run_wgmma(Element element, int n, bool transposed_b, const uint8_t* a_shared,
                      const uint8_t* b_shared, const float* c, float* d) {
  return element == Element::kBf16
             ? choose<ptx::WgmmaType::kBf16, false>(n, transposed_b, a_shared, nullptr, b_shared, c, d)
             : choose<ptx::WgmmaType::kF16, false>(n, transposed_b, a_shared, nullptr, b_shared, c, d);
}

cudaError_t run_wgmma_registers(Element element, int n, bool transposed_b, const uint32_t* a,
                                const uint8_t* b_shared, const float* c, float* d) {
  return element == Element::kBf16
             ? choose<ptx::WgmmaType::kBf16, true>(n, transposed_b, nullptr, a, b_shared, c, d)
             : choose<ptx::WgmmaType::kF16, true>(n, transposed_b, nullptr, a, b_shared, c, d);
}

}  // namespace longhaul::testing
