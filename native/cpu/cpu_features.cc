#include "cpu/cpu_features.h"

#include <sched.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <thread>

#ifdef __x86_64__
#include <cpuid.h>
#endif

namespace longhaul::cpu {
namespace {

struct Candidate {
  InstructionSet isa;
  bool supported;
};

#ifdef __x86_64__
// Not every compiler knows this feature by name.
bool has_f16c() {
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif

// Every instruction set built into this library, best last. The builtins ask the operating system too.
std::vector<Candidate> candidates() {
  std::vector<Candidate> all = {{{"generic", &isa_generic::kernels}, true}};
#ifdef __x86_64__
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  const bool avx512bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
  all.push_back({{"avx2", &isa_avx2::kernels}, avx2});
  all.push_back({{"avx512", &isa_avx512::kernels}, avx512});
  all.push_back({{"avx512bf16", &isa_avx512bf16::kernels}, avx512bf16});
#endif
  return all;
}

// The quota of this process's control group in whole cores, rounded up; 0 when there is none.
int control_group_cores() {
  long long quota = 0, period = 0;
  if (std::FILE* file = std::fopen("/sys/fs/cgroup/cpu.max", "re")) {
    if (std::fscanf(file, "%lld %lld", &quota, &period) != 2) quota = 0;  // "max": no quota
    std::fclose(file);
  } else {
    const auto read = [](const char* path, long long* value) {
      std::FILE* file = std::fopen(path, "re");
      if (file == nullptr) return;
      if (std::fscanf(file, "%lld", value) != 1) *value = 0;
      std::fclose(file);
    };
    read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", &quota);
    read("/sys/fs/cgroup/cpu/cpu.cfs_period_us", &period);
  }
  return quota > 0 && period > 0 ? static_cast<int>((quota + period - 1) / period) : 0;
}

}  // namespace

std::vector<InstructionSet> supported_instruction_sets() {
  std::vector<InstructionSet> supported;
  for (const Candidate& candidate : candidates()) {
    if (candidate.supported) supported.push_back(candidate.isa);
  }
  return supported;
}

Result<InstructionSet> choose_instruction_set() {
  const char* wanted = std::getenv("LONGHAUL_ISA");
  if (wanted == nullptr || *wanted == '\0') return supported_instruction_sets().back();
  std::string known;
  for (const Candidate& candidate : candidates()) {
    if (std::string(wanted) == candidate.isa.name) {
      if (candidate.supported) return candidate.isa;
      return unsupported(std::string("LONGHAUL_ISA: this machine has no ") + wanted);
    }
    known += (known.empty() ? "" : ", ") + std::string(candidate.isa.name);
  }
  return invalid_argument(std::string("LONGHAUL_ISA: '") + wanted + "' is none of " + known);
}

int available_cores() {
  int cores = static_cast<int>(std::thread::hardware_concurrency());
  cpu_set_t affinity;
  if (sched_getaffinity(0, sizeof(affinity), &affinity) == 0) cores = CPU_COUNT(&affinity);
  if (const int quota = control_group_cores(); quota > 0) cores = std::min(cores, quota);
  return std::max(cores, 1);
}

}  // namespace longhaul::cpu
