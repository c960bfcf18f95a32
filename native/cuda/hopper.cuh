// PTX of sm_90 and sm_90a: mbarrier, the bulk tensor copy engine (TMA), wgmma, register reallocation. One
// instruction a function, its emulation beside it. Only *_sm90.cu include this; they are built for sm_90a
// alone.
#pragma once

#include "cuda/ptx.cuh"
#include "cuda/tensor_map.h"

#if !defined(__CUDACC__)
#include "emulator/mbarrier.h"
#include "emulator/tensor_copy.h"
#include "emulator/wgmma.h"
#endif

namespace longhaul::cuda::ptx {

#if defined(__CUDACC__)

using Mbar = uint64_t;

// One thread initialises, then mbar_fence_init and a barrier before anybody else (or the copy engine) uses it.
__device__ __forceinline__ void mbar_init(Mbar* bar, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(smem_addr(bar)), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void mbar_fence_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void mbar_arrive(Mbar* bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(smem_addr(bar)) : "memory");
}
// Arrives and announces `bytes` that bulk copies will bring in this phase.
__device__ __forceinline__ void mbar_expect(Mbar* bar, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(smem_addr(bar)), "r"(bytes)
               : "memory");
}
// Until the phase of this parity has ended; parity 1 passes at once on a fresh barrier.
__device__ __forceinline__ void mbar_wait(Mbar* bar, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred p;\nwait_%=:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
      "@p bra done_%=;\nbra wait_%=;\ndone_%=:\n}" ::"r"(smem_addr(bar)),
      "r"(parity)
      : "memory");
}

// Loads the box at (c0, c1), c0 along the contiguous dimension, to 1024-aligned shared memory; completes on
// `bar`.
__device__ __forceinline__ void tma_load_2d(void* dst, const TensorMap* map, Mbar* bar, int c0, int c1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], "
      "[%2];" ::"r"(smem_addr(dst)),
      "l"(map), "r"(smem_addr(bar)), "r"(c0), "r"(c1)
      : "memory");
}
__device__ __forceinline__ void tma_store_2d(const TensorMap* map, const void* src, int c0, int c1) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map),
               "r"(smem_addr(src)), "r"(c0), "r"(c1)
               : "memory");
}
__device__ __forceinline__ void tma_store_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
template <int N>
__device__ __forceinline__ void tma_store_wait() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(N) : "memory");
}
// Makes ordinary stores to shared memory visible to wgmma and the copy engine: in each writing thread, before
// the barrier.
__device__ __forceinline__ void fence_async_shared() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Tile with K contiguous: rows of 64 16-bit elements (128 bytes, swizzled), groups of 8 rows 1024 bytes apart.
__device__ __forceinline__ uint64_t desc128(const void* p) {
  return static_cast<uint64_t>((smem_addr(p) & 0x3ffff) >> 4) | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 |
         uint64_t{1} << 62;
}
// Tile with M or N contiguous (transposed operand): rows of 64 elements along M or N, one row a k, groups of 8
// k's 1024 bytes apart; `chunk_bytes` from one 64 elements wide chunk to the next.
__device__ __forceinline__ uint64_t desc128_transposed(const void* p, int chunk_bytes) {
  return static_cast<uint64_t>((smem_addr(p) & 0x3ffff) >> 4) | static_cast<uint64_t>(chunk_bytes >> 4) << 16 |
         uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}
__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int N>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// A register count for this warpgroup; needs __launch_bounds__(threads, 1) and one branch a role.
template <int kRegisters>
__device__ __forceinline__ void reg_alloc() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void reg_dealloc() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

#else

using Mbar = emulator::Mbarrier;

inline void mbar_init(Mbar* bar, int arrivals) {
  emulator::mbarrier_init(bar, arrivals);
}
inline void mbar_fence_init() {}
inline void mbar_arrive(Mbar* bar) {
  emulator::mbarrier_arrive(bar);
}
inline void mbar_expect(Mbar* bar, int bytes) {
  emulator::mbarrier_arrive(bar, bytes);
}
inline void mbar_wait(Mbar* bar, uint32_t parity) {
  emulator::mbarrier_wait(bar, parity);
}

inline void tma_load_2d(void* dst, const TensorMap* map, Mbar* bar, int c0, int c1) {
  const int at[] = {c0, c1};
  emulator::bulk_copy_to_shared(dst, *map, bar, at);
}
inline void tma_store_2d(const TensorMap* map, const void* src, int c0, int c1) {
  const int at[] = {c0, c1};
  emulator::bulk_copy_to_global(*map, src, at);
}
inline void tma_store_commit() {
  emulator::bulk_commit();
}
template <int N>
inline void tma_store_wait() {
  emulator::bulk_wait(N);
}
inline void fence_async_shared() {}

inline uint64_t desc128(const void* p) {
  return emulator::shared_offset(p) >> 4 | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}
inline uint64_t desc128_transposed(const void* p, int chunk_bytes) {
  return emulator::shared_offset(p) >> 4 | static_cast<uint64_t>(chunk_bytes >> 4) << 16 |
         uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}
inline void wgmma_fence() {}
inline void wgmma_commit() {
  emulator::wgmma_commit();
}
template <int N>
inline void wgmma_wait() {
  emulator::wgmma_wait(N);
}
template <int kRegisters>
inline void reg_alloc() {}
template <int kRegisters>
inline void reg_dealloc() {}

#endif

}  // namespace longhaul::cuda::ptx

#include "cuda/wgmma.cuh"
