// Chooses the kernels this machine can run.
#pragma once

#include <string>
#include <vector>

#include "core/status.h"
#include "cpu/isa/kernels.h"

namespace longhaul::cpu {

struct InstructionSet {
  const char* name;  // "generic", "avx2", "avx512", "avx512bf16"
  const Kernels* kernels;
};

// Those that both the processor and the operating system support, best last. Never empty.
std::vector<InstructionSet> supported_instruction_sets();

// The best one, or the one that the environment variable LONGHAUL_ISA names: kInvalidArgument when that is
// unknown, kUnsupported when this machine lacks it.
Result<InstructionSet> choose_instruction_set();

// Cores this process may use: its affinity mask and its control group's quota.
int available_cores();

}  // namespace longhaul::cpu
