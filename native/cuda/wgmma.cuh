// wgmma.mma_async m64nNk16 for bf16 and f16 with f32 sums: one asm statement for each N, because the number of
// operands is part of the instruction. Included by hopper.cuh.
//
// d[64][N] (+)= a[64][16] b[N][16]^T. Accumulator i of thread t of the warpgroup is in row t / 32 * 16 +
// t % 32 / 4 + i / 2 % 2 * 8 and in column i / 4 * 8 + t % 4 * 2 + i % 2. With A in registers, these are as for
// mma.m16n8k16, 16 rows a warp.
#pragma once

namespace longhaul::cuda::ptx {

enum class WgmmaType { kBf16, kF16 };

#if defined(__CUDACC__)

// The accumulators of each N, as the instruction names them and as operands.
#define LONGHAUL_WGMMA_REGISTERS_64                                                                      \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, " \
  "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define LONGHAUL_WGMMA_REGISTERS_128                                                                  \
  LONGHAUL_WGMMA_REGISTERS_64                                                                         \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, " \
  "%51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define LONGHAUL_WGMMA_REGISTERS_256                                                                  \
  LONGHAUL_WGMMA_REGISTERS_128                                                                        \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, " \
  "%83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, " \
  "%102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, "  \
  "%118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define LONGHAUL_WGMMA_SUMS(i)                                                                                \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7]), "+f"(d[i + 8]), "+f"(d[i + 9]), "+f"(d[i + 10]), "+f"(d[i + 11]), "+f"(d[i + 12]),      \
      "+f"(d[i + 13]), "+f"(d[i + 14]), "+f"(d[i + 15])
#define LONGHAUL_WGMMA_SUMS_64 LONGHAUL_WGMMA_SUMS(0), LONGHAUL_WGMMA_SUMS(16)
#define LONGHAUL_WGMMA_SUMS_128 LONGHAUL_WGMMA_SUMS_64, LONGHAUL_WGMMA_SUMS(32), LONGHAUL_WGMMA_SUMS(48)
#define LONGHAUL_WGMMA_SUMS_256                                                                       \
  LONGHAUL_WGMMA_SUMS_128, LONGHAUL_WGMMA_SUMS(64), LONGHAUL_WGMMA_SUMS(80), LONGHAUL_WGMMA_SUMS(96), \
      LONGHAUL_WGMMA_SUMS(112)

// The other operands come behind the accumulators: A, B, P (accumulate) and TB (B is transposed) are their
// numbers.
#define LONGHAUL_WGMMA_SHARED(N, TYPE, A, B, P, TB)                                              \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #P                                           \
               ", 0;\n"                                                                          \
               "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE                   \
               " {" LONGHAUL_WGMMA_REGISTERS_##N "}, %" #A ", %" #B ", p, 1, 1, 0, %" #TB ";\n}" \
               : LONGHAUL_WGMMA_SUMS_##N                                                         \
               : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)), "n"(int(kTransposeB)))
#define LONGHAUL_WGMMA_MIXED(N, TYPE, A0, A1, A2, A3, B, P, TB)                                         \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #P                                                  \
               ", 0;\n"                                                                                 \
               "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE                          \
               " {" LONGHAUL_WGMMA_REGISTERS_##N "}, {%" #A0 ", %" #A1 ", %" #A2 ", %" #A3 "}, %" #B    \
                                                 ", p, 1, 1, %" #TB ";\n}"                              \
               : LONGHAUL_WGMMA_SUMS_##N                                                                \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)), \
                 "n"(int(kTransposeB)))

// Both operands in shared memory. kTransposeB: its tile has N contiguous (desc128_transposed) instead of K.
// Without `accumulate` d is overwritten. d must not be touched between wgmma_fence and wgmma_wait.
template <WgmmaType kType, int kN, bool kTransposeB = false>
__device__ __forceinline__ void wgmma_m64k16(float (&d)[kN / 2], uint64_t a, uint64_t b, bool accumulate) {
  if constexpr (kN == 64 && kType == WgmmaType::kBf16) {
    LONGHAUL_WGMMA_SHARED(64, "bf16", 32, 33, 34, 35);
  } else if constexpr (kN == 64 && kType == WgmmaType::kF16) {
    LONGHAUL_WGMMA_SHARED(64, "f16", 32, 33, 34, 35);
  } else if constexpr (kN == 128 && kType == WgmmaType::kBf16) {
    LONGHAUL_WGMMA_SHARED(128, "bf16", 64, 65, 66, 67);
  } else if constexpr (kN == 128 && kType == WgmmaType::kF16) {
    LONGHAUL_WGMMA_SHARED(128, "f16", 64, 65, 66, 67);
  } else if constexpr (kN == 256 && kType == WgmmaType::kBf16) {
    LONGHAUL_WGMMA_SHARED(256, "bf16", 128, 129, 130, 131);
  } else if constexpr (kN == 256 && kType == WgmmaType::kF16) {
    LONGHAUL_WGMMA_SHARED(256, "f16", 128, 129, 130, 131);
  } else {
    static_assert(kN == 64, "no wgmma of this width: add it to the lists above");
  }
}
// A in registers (the layout of mma.m16n8k16's A, 16 rows a warp): they must not change before wgmma_wait.
template <WgmmaType kType, int kN, bool kTransposeB = false>
__device__ __forceinline__ void wgmma_m64k16(float (&d)[kN / 2], const uint32_t (&a)[4], uint64_t b,
                                             bool accumulate) {
  if constexpr (kN == 64 && kType == WgmmaType::kBf16) {
    LONGHAUL_WGMMA_MIXED(64, "bf16", 32, 33, 34, 35, 36, 37, 38);
  } else if constexpr (kN == 64 && kType == WgmmaType::kF16) {
    LONGHAUL_WGMMA_MIXED(64, "f16", 32, 33, 34, 35, 36, 37, 38);
  } else if constexpr (kN == 128 && kType == WgmmaType::kBf16) {
    LONGHAUL_WGMMA_MIXED(128, "bf16", 64, 65, 66, 67, 68, 69, 70);
  } else if constexpr (kN == 128 && kType == WgmmaType::kF16) {
    LONGHAUL_WGMMA_MIXED(128, "f16", 64, 65, 66, 67, 68, 69, 70);
  } else {
    static_assert(kN == 64, "no wgmma of this width: add it to the lists above");
  }
}

#undef LONGHAUL_WGMMA_SHARED
#undef LONGHAUL_WGMMA_MIXED
#undef LONGHAUL_WGMMA_REGISTERS_64
#undef LONGHAUL_WGMMA_REGISTERS_128
#undef LONGHAUL_WGMMA_REGISTERS_256
#undef LONGHAUL_WGMMA_SUMS
#undef LONGHAUL_WGMMA_SUMS_64
#undef LONGHAUL_WGMMA_SUMS_128
#undef LONGHAUL_WGMMA_SUMS_256

#else

inline emulator::MatrixType matrix_type(WgmmaType type) {
  return type == WgmmaType::kBf16 ? emulator::MatrixType::kBf16 : emulator::MatrixType::kF16;
}

template <WgmmaType kType, int kN, bool kTransposeB = false>
inline void wgmma_m64k16(float (&d)[kN / 2], uint64_t a, uint64_t b, bool accumulate) {
  emulator::wgmma_issue({.d = d,
                         .n = kN,
                         .type = matrix_type(kType),
                         .accumulate = accumulate,
                         .a = a,
                         .b = b,
                         .b_transposed = kTransposeB});
}
template <WgmmaType kType, int kN, bool kTransposeB = false>
inline void wgmma_m64k16(float (&d)[kN / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
  emulator::wgmma_issue({.d = d,
                         .n = kN,
                         .type = matrix_type(kType),
                         .accumulate = accumulate,
                         .a_in_registers = true,
                         .a_registers = {a[0], a[1], a[2], a[3]},
                         .b = b,
                         .b_transposed = kTransposeB});
}

#endif

}  // namespace longhaul::cuda::ptx
