#include "cuda/ptx.cuh"
#include "ptx/ptx_kernels.h"

namespace longhaul::testing {
namespace {

namespace ptx = cuda::ptx;
constexpr int kSharedBytes = 4096;

__global__ void mma_kernel(Element element, const uint32_t* a, const uint32_t* b, const float* c, float* d) {
  const int lane = static_cast<int>(threadIdx.x);
  uint32_t ra[4];
  float rd[4];
  for (int i = 0; i < 4; ++i) {
    ra[i] = a[lane * 4 + i];
    rd[i] = c[lane * 4 + i];
  }
  if (element == Element::kBf16) {
    ptx::mma_m16n8k16_bf16(rd, ra, b[lane * 2], b[lane * 2 + 1]);
  } else {
    ptx::mma_m16n8k16_f16(rd, ra, b[lane * 2], b[lane * 2 + 1]);
  }
  for (int i = 0; i < 4; ++i) d[lane * 4 + i] = rd[i];
}

template <int kMatrices, bool kTransposed>
__global__ void ldmatrix_kernel(const uint8_t* shared, int bytes, const int* offsets, uint32_t* out) {
  DYNAMIC_SMEM(smem);
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < bytes; i += 32) smem[i] = shared[i];
  __syncthreads();
  uint32_t r[kMatrices];
  const unsigned char* row = smem + offsets[lane];
  if constexpr (kMatrices == 4 && kTransposed) ptx::ldmatrix_x4_trans(r, row);
  if constexpr (kMatrices == 4 && !kTransposed) ptx::ldmatrix_x4(r, row);
  if constexpr (kMatrices == 2 && kTransposed) ptx::ldmatrix_x2_trans(r, row);
  if constexpr (kMatrices == 2 && !kTransposed) ptx::ldmatrix_x2(r, row);
  for (int i = 0; i < kMatrices; ++i) out[lane * kMatrices + i] = r[i];
}

__global__ void cp_async_kernel(int width, bool valid, const uint8_t* in, uint8_t* out) {
  DYNAMIC_SMEM(smem);
  for (int i = 0; i < 16; ++i) smem[i] = 0x77;
  if (width == 16) ptx::cp_async16(smem, in, valid);
  if (width == 8) ptx::cp_async8(smem, in, valid);
  if (width == 4) ptx::cp_async4(smem, in, valid);
  ptx::cp_async_commit();
  ptx::cp_async_wait<0>();
  for (int i = 0; i < 16; ++i) out[i] = smem[i];
}

__global__ void ex2_kernel(const float* in, float* out) {
  out[threadIdx.x] = ptx::ex2_approx(in[threadIdx.x]);
}

__global__ void named_barrier_kernel(float* out) {
  DYNAMIC_SMEM(smem);
  float* numbers = reinterpret_cast<float*>(smem);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (threadIdx.x >= 32) {
    numbers[lane] = 10.0f + static_cast<float>(lane);
    ptx::bar_arrive(3, 64);
  } else {
    ptx::bar_sync(3, 64);
    out[lane] = numbers[31 - lane];
  }
}

}  // namespace

cudaError_t run_mma(Element element, const uint32_t* a, const uint32_t* b, const float* c, float* d) {
  return cuda::launch(mma_kernel, dim3(1), dim3(32), 0, nullptr, element, a, b, c, d);
}

cudaError_t run_ldmatrix(int matrices, bool transposed, const uint8_t* shared, int bytes, const int* offsets,
                         uint32_t* out) {
  const auto kernel = matrices == 4 ? (transposed ? ldmatrix_kernel<4, true> : ldmatrix_kernel<4, false>)
                                    : (transposed ? ldmatrix_kernel<2, true> : ldmatrix_kernel<2, false>);
  return cuda::launch(kernel, dim3(1), dim3(32), kSharedBytes, nullptr, shared, bytes, offsets, out);
}

cudaError_t run_cp_async(int width, bool valid, const uint8_t* in, uint8_t* out) {
  return cuda::launch(cp_async_kernel, dim3(1), dim3(1), kSharedBytes, nullptr, width, valid, in, out);
}

cudaError_t run_ex2(const float* in, float* out) {
  return cuda::launch(ex2_kernel, dim3(1), dim3(32), 0, nullptr, in, out);
}

cudaError_t run_named_barrier(float* out) {
  return cuda::launch(named_barrier_kernel, dim3(1), dim3(64), kSharedBytes, nullptr, out);
}

}  // namespace longhaul::testing
