#include "kernels.h"

namespace longhaul {

Kernel find_kernel(const std::string& name) {
  static constexpr std::pair<const char*, Kernel> kKernels[] = {
      {"embed", kernels::embed},
      {"rmsNorm", kernels::rms_norm},
      {"gemm", kernels::gemm},
      {"swiglu", kernels::swiglu},
      {"ropeTable", kernels::rope_table},
      {"rope", kernels::rope},
      {"gatherRows", kernels::gather_rows},
      {"append", kernels::append},
      {"attention", kernels::attention},
      {"mergeStates", kernels::merge_states},
      {"truncate", kernels::truncate},
      {"scoreKeys", kernels::score_keys},
      {"keyDiversity", kernels::key_diversity},
      {"select", kernels::select},
      {"compact", kernels::compact},
      {"sample", kernels::sample},
  };
  for (const auto& [known, kernel] : kKernels) {
    if (name == known) return kernel;
  }
  return nullptr;
}

}  // namespace longhaul
