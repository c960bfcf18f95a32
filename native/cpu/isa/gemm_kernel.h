// The parts of one instruction set's DenseKernels that gemm_kernel.cc defines. Only for native/cpu/isa.
#pragma once

#include "cpu/isa/kernels.h"
#include "cpu/isa/simd.h"

namespace longhaul::LONGHAUL_ISA_NAMESPACE {

// Rows whose sums the registers hold beside the weights: two panels of them on 32 registers, one on 16.
#if defined(LONGHAUL_ISA_avx512bf16)
constexpr int kRowGroup = 14;
constexpr bool kBf16Pairs = true;
#elif defined(LONGHAUL_ISA_avx512)
constexpr int kRowGroup = 12;
constexpr bool kBf16Pairs = false;
#elif defined(LONGHAUL_ISA_avx2)
constexpr int kRowGroup = 6;
constexpr bool kBf16Pairs = false;
#else
constexpr int kRowGroup = 2;
constexpr bool kBf16Pairs = false;
#endif

void pack_pairs(const cpu::PackRows& pack);
void pack_f32(const cpu::PackRows& pack);
void gemm_f32(const cpu::GemmBlock& block);
void gemm_bf16(const cpu::GemmBlock& block);
void gemm_f16(const cpu::GemmBlock& block);

}  // namespace longhaul::LONGHAUL_ISA_NAMESPACE
