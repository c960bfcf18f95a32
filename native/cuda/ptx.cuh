// Every PTX instruction the kernels use up to sm_80, one function each, with its emulation beside it. Layouts
// of fragments are those of the PTX ISA, "Matrix multiply-accumulate instructions"; test/native/ptx states
// them as tests.
#pragma once

#include "cuda/device.cuh"

#if !defined(__CUDACC__)
#include "emulator/async_copy.h"
#include "emulator/collective.h"
#include "emulator/tile_product.h"
#endif

namespace longhaul::cuda::ptx {

#if defined(__CUDACC__)

__device__ __forceinline__ uint32_t smem_addr(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Copies 16, 8 or 4 bytes to shared memory without waiting; zeros when not `valid` (gmem is not read then).
__device__ __forceinline__ void cp_async16(void* smem, const void* gmem, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(smem_addr(smem)), "l"(gmem),
               "r"(valid ? 16 : 0)
               : "memory");
}
// The first `bytes` (0 to 16) of 16, zeros behind them.
__device__ __forceinline__ void cp_async16_partial(void* smem, const void* gmem, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(smem_addr(smem)), "l"(gmem), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void cp_async8(void* smem, const void* gmem, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;\n" ::"r"(smem_addr(smem)), "l"(gmem),
               "r"(valid ? 8 : 0)
               : "memory");
}
__device__ __forceinline__ void cp_async4(void* smem, const void* gmem, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(smem_addr(smem)), "l"(gmem),
               "r"(valid ? 4 : 0)
               : "memory");
}
__device__ __forceinline__ void cp_async_commit() {
  asm volatile("cp.async.commit_group;\n" ::: "memory");
}
// Until at most N of this thread's latest groups are under way. Other threads see the data after a barrier.
template <int N>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(N) : "memory");
}
__device__ __forceinline__ void cp_async_wait_all() {
  asm volatile("cp.async.wait_all;\n" ::: "memory");
}

// 16 bytes that nobody writes while the kernel runs and nobody reads again: past L1.
__device__ __forceinline__ Bytes16 load16_once(const void* gmem) {
  Bytes16 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(gmem));
  return v;
}

// Lane i gives the address of row i % 8 of matrix i / 8 (8 rows of 16 bytes); x2 reads the addresses of lanes
// 0-15.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* smem) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(smem_addr(smem))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* smem) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(smem_addr(smem))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], const void* smem) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];\n"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(smem_addr(smem))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x2_trans(uint32_t (&r)[2], const void* smem) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];\n"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(smem_addr(smem))
               : "memory");
}

// d[16][8] += a[16][16] b[16][8], f32 sums.
__device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                                  uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                                 uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// x, but the compiler cannot see that: what is computed from it is not moved out of a loop, where it would hold
// registers.
__device__ __forceinline__ int opaque(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

// 2^x to about two ulp; 2^-inf is 0.
__device__ __forceinline__ float ex2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

// Named barrier `id` (1 to 15) for `threads` threads of the block, whole warps: arrive and wait, or only
// arrive.
__device__ __forceinline__ void bar_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void bar_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}

#else

inline void cp_async16(void* smem, const void* gmem, bool valid) {
  emulator::async_copy(smem, gmem, 16, valid ? 16 : 0);
}
inline void cp_async16_partial(void* smem, const void* gmem, int bytes) {
  emulator::async_copy(smem, gmem, 16, bytes);
}
inline void cp_async8(void* smem, const void* gmem, bool valid) {
  emulator::async_copy(smem, gmem, 8, valid ? 8 : 0);
}
inline void cp_async4(void* smem, const void* gmem, bool valid) {
  emulator::async_copy(smem, gmem, 4, valid ? 4 : 0);
}
inline void cp_async_commit() {
  emulator::async_commit();
}
template <int N>
inline void cp_async_wait() {
  emulator::async_wait(N);
}
inline void cp_async_wait_all() {
  emulator::async_wait_all();
}

inline Bytes16 load16_once(const void* gmem) {
  return load16(gmem);
}

template <int kMatrices>
struct MatrixRegisters {
  uint32_t r[kMatrices];
};

template <int kMatrices, bool kTransposed>
inline void ldmatrix(uint32_t (&r)[kMatrices], const void* smem) {
  using Registers = MatrixRegisters<kMatrices>;
  if (emulator::lane_id() < 8 * kMatrices) {
    if (reinterpret_cast<uintptr_t>(smem) % 16 != 0)
      emulator::fail("ldmatrix: a row's address is not a multiple of 16 bytes");
    emulator::check_shared_range("ldmatrix", smem, 16);
    emulator::note_read(smem, 16);
  }
  const char* op = kTransposed ? "ldmatrix.trans" : "ldmatrix";
  const auto out = emulator::collective<Registers>(
      0xffffffffu, op, smem, [](emulator::CollectiveIn in, emulator::CollectiveOut out, uint32_t) {
        Registers registers[32];
        for (int matrix = 0; matrix < kMatrices; ++matrix) {
          uint16_t tile[8][8];
          for (int row = 0; row < 8; ++row)
            std::memcpy(tile[row], emulator::read_lane<const void*>(in, matrix * 8 + row), sizeof tile[row]);
          for (int lane = 0; lane < 32; ++lane) {
            const int i = lane / 4, j = lane % 4 * 2;
            const uint32_t low = kTransposed ? tile[j][i] : tile[i][j];
            const uint32_t high = kTransposed ? tile[j + 1][i] : tile[i][j + 1];
            registers[lane].r[matrix] = low | high << 16;
          }
        }
        for (int lane = 0; lane < 32; ++lane) emulator::write_lane(out, lane, registers[lane]);
      });
  std::memcpy(r, out.r, sizeof r);
}
inline void ldmatrix_x4(uint32_t (&r)[4], const void* smem) {
  ldmatrix<4, false>(r, smem);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* smem) {
  ldmatrix<4, true>(r, smem);
}
inline void ldmatrix_x2(uint32_t (&r)[2], const void* smem) {
  ldmatrix<2, false>(r, smem);
}
inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void* smem) {
  ldmatrix<2, true>(r, smem);
}

struct MmaIn {
  uint32_t a[4], b[2];
  float c[4];
};
struct MmaOut {
  float d[4];
};

template <float (*kToFloat)(uint16_t)>
inline void mma_m16n8k16(const char* op, float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const MmaIn in{{a[0], a[1], a[2], a[3]}, {b0, b1}, {d[0], d[1], d[2], d[3]}};
  const auto out = emulator::collective<MmaOut>(
      0xffffffffu, op, in, [](emulator::CollectiveIn in, emulator::CollectiveOut out, uint32_t) {
        float a[16][16], b[16][8], c[16][8];
        for (int lane = 0; lane < 32; ++lane) {
          const auto x = emulator::read_lane<MmaIn>(in, lane);
          const int g = lane / 4, t = lane % 4 * 2;
          for (int half = 0; half < 2; ++half) {
            auto value = [half](uint32_t pair) { return kToFloat(static_cast<uint16_t>(pair >> 16 * half)); };
            a[g][t + half] = value(x.a[0]);
            a[g + 8][t + half] = value(x.a[1]);
            a[g][t + 8 + half] = value(x.a[2]);
            a[g + 8][t + 8 + half] = value(x.a[3]);
            b[t + half][g] = value(x.b[0]);
            b[t + 8 + half][g] = value(x.b[1]);
            c[g][t + half] = x.c[half];
            c[g + 8][t + half] = x.c[2 + half];
          }
        }
        emulator::multiply_tile_16x8(&c[0][0], &a[0][0], &b[0][0], 16);
        for (int lane = 0; lane < 32; ++lane) {
          const int g = lane / 4, t = lane % 4 * 2;
          emulator::write_lane(out, lane, MmaOut{{c[g][t], c[g][t + 1], c[g + 8][t], c[g + 8][t + 1]}});
        }
      });
  std::memcpy(d, out.d, sizeof d);
}
inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  mma_m16n8k16<emulator::bf16_to_float>("mma.m16n8k16.bf16", d, a, b0, b1);
}
inline void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  mma_m16n8k16<emulator::f16_to_float>("mma.m16n8k16.f16", d, a, b0, b1);
}

inline int opaque(int x) {
  return x;
}
inline float ex2_approx(float x) {
  return std::exp2(x);
}

inline void bar_sync(int id, int threads) {
  emulator::barrier_sync(id, threads, "bar.sync");
}
inline void bar_arrive(int id, int threads) {
  emulator::barrier_arrive(id, threads, "bar.arrive");
}

#endif

}  // namespace longhaul::cuda::ptx
