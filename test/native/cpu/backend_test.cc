#include <cstdlib>

#include "cpu_test_support.h"

namespace longhaul::cpu {
namespace {

// Sets LONGHAUL_ISA for one scope.
class IsaVariable {
 public:
  explicit IsaVariable(const char* value) {
    if (const char* before = std::getenv("LONGHAUL_ISA")) {
      before_ = before;
      was_set_ = true;
    }
    ::setenv("LONGHAUL_ISA", value, 1);
  }
  ~IsaVariable() { was_set_ ? ::setenv("LONGHAUL_ISA", before_.c_str(), 1) : ::unsetenv("LONGHAUL_ISA"); }

 private:
  std::string before_;
  bool was_set_ = false;
};

TEST(CpuBackend, VariableChoosesTheInstructionSet) {
  for (const InstructionSet& isa : supported_instruction_sets()) {
    const IsaVariable variable(isa.name);
    auto backend = make_cpu_backend(2);
    ASSERT_TRUE(backend.ok());
    EXPECT_EQ(backend.value()->description(), std::string(isa.name) + ", 2 threads");
  }
}

TEST(CpuBackend, RefusesAnUnknownInstructionSetAndBadThreads) {
  const IsaVariable variable("avx1024");
  auto backend = make_cpu_backend(1);
  EXPECT_EQ(backend.status().code(), Code::kInvalidArgument);
  EXPECT_NE(backend.status().message().find("avx1024"), std::string::npos);
  EXPECT_EQ(make_cpu_backend(-1).status().code(), Code::kInvalidArgument);
}

TEST(CpuBackend, ZeroThreadsMeansEveryAvailableCore) {
  auto backend = make_cpu_backend(0);
  ASSERT_TRUE(backend.ok());
  const int cores = available_cores();
  ASSERT_GE(cores, 1);
  EXPECT_NE(backend.value()->description().find(", " + std::to_string(cores) + " thread"), std::string::npos);
}

TEST(CpuBackend, MemoryIsZeroedAlignedAndCounted) {
  auto backend = make_cpu_backend(1);
  ASSERT_TRUE(backend.ok());
  for (size_t bytes :
       {size_t{1}, size_t{1000}, (size_t{2} << 20) - 1, size_t{2} << 20, (size_t{5} << 20) + 3}) {
    for (int round = 0; round < 2; ++round) {
      auto buffer = backend.value()->allocate(bytes, MemoryUse::kPool);
      ASSERT_TRUE(buffer.ok());
      EXPECT_EQ(backend.value()->allocated(MemoryUse::kPool), bytes);
      unsigned char* data = static_cast<unsigned char*>(buffer.value().data());
      EXPECT_EQ(reinterpret_cast<uintptr_t>(data) % 64, 0u);
      for (size_t i = 0; i < bytes; ++i) ASSERT_EQ(data[i], 0) << i << " of " << bytes;
      std::memset(data, 0xff, bytes);
    }
    EXPECT_EQ(backend.value()->allocated(MemoryUse::kPool), 0u);
  }
  auto refused = backend.value()->allocate(size_t{1} << 60, MemoryUse::kPool);
  EXPECT_EQ(refused.status().code(), Code::kOutOfMemory);
  EXPECT_EQ(backend.value()->allocated(MemoryUse::kPool), 0u);
}

}  // namespace
}  // namespace longhaul::cpu
