// wgmma.mma_async m64nNk16 for bf16 and f16 with f32 sums: one asm statement for each N, because the number of operands is
// part of the instruction. Included by hopper.cuh.
//
// d[64][N] (+)= a[64][16] b[N][16]^T. Accumulator i of thread t of the warpgroup is row t / 32 * 16 + t % 32 / 4 + i / 2 % 2
// * 8, column i / 4 * 8 + t % 4 * 2 + i % 2. With A in registers, these are as for mma.m16n8k16, 16 rows a warp.
#pragma once

namespace longhaul::cuda::ptx {

enum class WgmmaType { kBf16, kF16 };

#if defined(__CUDACC__)

#define LONGHAUL_WGMMA_REGISTERS_64 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, " \
  "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define LONGHAUL_WGMMA_OPERANDS_64 \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
  "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), \
  "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), \
  "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), \
  "+f"(d[30]), "+f"(d[31])
#define LONGHAUL_WGMMA_REGISTERS_96 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, " \
  "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, " \
  "%42, %43, %44, %45, %46, %47"
#define LONGHAUL_WGMMA_OPERANDS_96 \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
  "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), \
  "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), \
  "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), \
  "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), \
  "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), \
  "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47])
#define LONGHAUL_WGMMA_REGISTERS_128 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, " \
  "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, " \
  "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, " \
  "%62, %63"
#define LONGHAUL_WGMMA_OPERANDS_128 \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
  "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), \
  "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), \
  "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), \
  "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), \
  "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), \
  "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), \
  "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), \
  "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
#define LONGHAUL_WGMMA_REGISTERS_192 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, " \
  "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, " \
  "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, " \
  "%62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, " \
  "%82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define LONGHAUL_WGMMA_OPERANDS_192 \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
  "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), \
  "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), \
  "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), \
  "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), \
  "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), \
  "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), \
  "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), \
  "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]), "+f"(d[64]), \
  "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]), \
  "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), \
  "+f"(d[79]), "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), \
  "+f"(d[86]), "+f"(d[87]), "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), \
  "+f"(d[93]), "+f"(d[94]), "+f"(d[95])
#define LONGHAUL_WGMMA_REGISTERS_256 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, " \
  "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, " \
  "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, " \
  "%62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, " \
  "%82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, " \
  "%102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, " \
  "%119, %120, %121, %122, %123, %124, %125, %126, %127"
#define LONGHAUL_WGMMA_OPERANDS_256 \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
  "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), \
  "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), \
  "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), \
  "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), \
  "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), \
  "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), \
  "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), \
  "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]), "+f"(d[64]), \
  "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]), \
  "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), \
  "+f"(d[79]), "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), \
  "+f"(d[86]), "+f"(d[87]), "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), \
  "+f"(d[93]), "+f"(d[94]), "+f"(d[95]), "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99]), \
  "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]), "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), \
  "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111]), "+f"(d[112]), "+f"(d[113]), \
  "+f"(d[114]), "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119]), "+f"(d[120]), \
  "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])

#define LONGHAUL_WGMMA_SHARED(N, TYPE, A, B, P, TA, TB)                                                      \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #P ", 0;\n"                                                 \
               "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" LONGHAUL_WGMMA_REGISTERS_##N   \
               "}, %" #A ", %" #B ", p, 1, 1, %" #TA ", %" #TB ";\n}"                                              \
               : LONGHAUL_WGMMA_OPERANDS_##N                                                                       \
               : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)), "n"(int(kTransposeA)), "n"(int(kTransposeB)))
#define LONGHAUL_WGMMA_MIXED(N, TYPE, A0, A1, A2, A3, B, P, TB)                                                    \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #P ", 0;\n"                                                 \
               "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" LONGHAUL_WGMMA_REGISTERS_##N   \
               "}, {%" #A0 ", %" #A1 ", %" #A2 ", %" #A3 "}, %" #B ", p, 1, 1, %" #TB ";\n}"                       \
               : LONGHAUL_WGMMA_OPERANDS_##N                                                                       \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)),            \
                 "n"(int(kTransposeB)))

// Both operands in shared memory. kTranspose: the tile has M or N contiguous (desc128_transposed) instead of K.
// Without `accumulate` d is overwritten. d must not be touched between wgmma_fence and wgmma_wait.
template <WgmmaType kType, int kN, bool kTransposeA = false, bool kTransposeB = false>
__device__ __forceinline__ void wgmma_m64k16(float (&d)[kN / 2], uint64_t a, uint64_t b, bool accumulate) {
  if constexpr (kN == 64 && kType == WgmmaType::kBf16) {
    LONGHAUL_WGMMA_SHARED(64, "bf16", 32, 33, 34, 35, 36);
  } else if constexpr (kN == 64 && kType == WgmmaType::kF16) {
    LONGHAUL_WGMMA_SHARED(64, "f16", 32, 33, 34, 35, 36);
  } else if constexpr (kN == 96 && kType == WgmmaType::kBf16) {
    LONGHAUL_WGMMA_SHARED(96, "bf16", 48, 49, 50, 51, 52);
  } else if constexpr (kN == 96 && kType == WgmmaType::kF16) {
    LONGHAUL_WGMMA_SHARED(96, "f16", 48, 49, 50, 51, 52);
  } else if constexpr (kN == 128 && kType == WgmmaType::kBf16) {
    LONGHAUL_WGMMA_SHARED(128, "bf16", 64, 65, 66, 67, 68);
  } else if constexpr (kN == 128 && kType == WgmmaType::kF16) {
    LONGHAUL_WGMMA_SHARED(128, "f16", 64, 65, 66, 67, 68);
  } else if constexpr (kN == 192 && kType == WgmmaType::kBf16) {
    LONGHAUL_WGMMA_SHARED(192, "bf16", 96, 97, 98, 99, 100);
  } else if constexpr (kN == 192 && kType == WgmmaType::kF16) {
    LONGHAUL_WGMMA_SHARED(192, "f16", 96, 97, 98, 99, 100);
  } else if constexpr (kN == 256 && kType == WgmmaType::kBf16) {
    LONGHAUL_WGMMA_SHARED(256, "bf16", 128, 129, 130, 131, 132);
  } else if constexpr (kN == 256 && kType == WgmmaType::kF16) {
    LONGHAUL_WGMMA_SHARED(256, "f16", 128, 129, 130, 131, 132);
  } else {
    static_assert(kN == 64, "no wgmma of this width: add it to the lists above");
  }
}
// A in registers (the layout of mma.m16n8k16's A, 16 rows a warp): they must not change before wgmma_wait.
template <WgmmaType kType, int kN, bool kTransposeB = false>
__device__ __forceinline__ void wgmma_m64k16(float (&d)[kN / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
  if constexpr (kN == 64 && kType == WgmmaType::kBf16) {
    LONGHAUL_WGMMA_MIXED(64, "bf16", 32, 33, 34, 35, 36, 37, 38);
  } else if constexpr (kN == 64 && kType == WgmmaType::kF16) {
    LONGHAUL_WGMMA_MIXED(64, "f16", 32, 33, 34, 35, 36, 37, 38);
  } else if constexpr (kN == 96 && kType == WgmmaType::kBf16) {
    LONGHAUL_WGMMA_MIXED(96, "bf16", 48, 49, 50, 51, 52, 53, 54);
  } else if constexpr (kN == 96 && kType == WgmmaType::kF16) {
    LONGHAUL_WGMMA_MIXED(96, "f16", 48, 49, 50, 51, 52, 53, 54);
  } else if constexpr (kN == 128 && kType == WgmmaType::kBf16) {
    LONGHAUL_WGMMA_MIXED(128, "bf16", 64, 65, 66, 67, 68, 69, 70);
  } else if constexpr (kN == 128 && kType == WgmmaType::kF16) {
    LONGHAUL_WGMMA_MIXED(128, "f16", 64, 65, 66, 67, 68, 69, 70);
  } else if constexpr (kN == 192 && kType == WgmmaType::kBf16) {
    LONGHAUL_WGMMA_MIXED(192, "bf16", 96, 97, 98, 99, 100, 101, 102);
  } else if constexpr (kN == 192 && kType == WgmmaType::kF16) {
    LONGHAUL_WGMMA_MIXED(192, "f16", 96, 97, 98, 99, 100, 101, 102);
  } else if constexpr (kN == 256 && kType == WgmmaType::kBf16) {
    LONGHAUL_WGMMA_MIXED(256, "bf16", 128, 129, 130, 131, 132, 133, 134);
  } else if constexpr (kN == 256 && kType == WgmmaType::kF16) {
    LONGHAUL_WGMMA_MIXED(256, "f16", 128, 129, 130, 131, 132, 133, 134);
  } else {
    static_assert(kN == 64, "no wgmma of this width: add it to the lists above");
  }
}

#undef LONGHAUL_WGMMA_SHARED
#undef LONGHAUL_WGMMA_MIXED
#undef LONGHAUL_WGMMA_REGISTERS_64
#undef LONGHAUL_WGMMA_OPERANDS_64
#undef LONGHAUL_WGMMA_REGISTERS_96
#undef LONGHAUL_WGMMA_OPERANDS_96
#undef LONGHAUL_WGMMA_REGISTERS_128
#undef LONGHAUL_WGMMA_OPERANDS_128
#undef LONGHAUL_WGMMA_REGISTERS_192
#undef LONGHAUL_WGMMA_OPERANDS_192
#undef LONGHAUL_WGMMA_REGISTERS_256
#undef LONGHAUL_WGMMA_OPERANDS_256

#else

inline emulator::MatrixType matrix_type(WgmmaType type) {
  return type == WgmmaType::kBf16 ? emulator::MatrixType::kBf16 : emulator::MatrixType::kF16;
}

template <WgmmaType kType, int kN, bool kTransposeA = false, bool kTransposeB = false>
inline void wgmma_m64k16(float (&d)[kN / 2], uint64_t a, uint64_t b, bool accumulate) {
  emulator::wgmma_issue({.d = d,
                         .n = kN,
                         .type = matrix_type(kType),
                         .accumulate = accumulate,
                         .a = a,
                         .b = b,
                         .a_transposed = kTransposeA,
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
