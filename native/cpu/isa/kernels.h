// The kernels of one instruction set. native/cpu/isa/*.cc is compiled once for each, in a namespace of its own,
// and exports one table; cpu_features.cc chooses among them at run time.
//
// Kernels take plain pointers and counts, are single-threaded and never check: ops split the work.
#pragma once

#include "cpu/isa/attention_kernels.h"
#include "cpu/isa/dense_kernels.h"
#include "cpu/isa/expert_kernels.h"

namespace longhaul::cpu {

struct Kernels {
  const DenseKernels* dense;
  const AttentionKernels* attention;
  const ExpertKernels* experts;
};

}  // namespace longhaul::cpu

#define LONGHAUL_DECLARE_KERNELS(isa)                                 \
  namespace longhaul::isa_##isa {                                     \
    extern const ::longhaul::cpu::DenseKernels dense_kernels;         \
    extern const ::longhaul::cpu::AttentionKernels attention_kernels; \
    extern const ::longhaul::cpu::ExpertKernels expert_kernels;       \
    extern const ::longhaul::cpu::Kernels kernels;                    \
  }

LONGHAUL_DECLARE_KERNELS(generic)
#ifdef __x86_64__
LONGHAUL_DECLARE_KERNELS(avx2)
LONGHAUL_DECLARE_KERNELS(avx512)
LONGHAUL_DECLARE_KERNELS(avx512bf16)
#endif

#undef LONGHAUL_DECLARE_KERNELS
