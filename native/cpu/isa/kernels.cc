#include "cpu/isa/kernels.h"

#include "cpu/isa/simd.h"

namespace longhaul::LONGHAUL_ISA_NAMESPACE {

const cpu::Kernels kernels = {&dense_kernels, &attention_kernels, &expert_kernels};

}  // namespace longhaul::LONGHAUL_ISA_NAMESPACE
