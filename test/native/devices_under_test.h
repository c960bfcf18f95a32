// Which devices the suites of kv, model and engine run on: those of the CPU, or the emulated GPU in programs
// built for it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/backend.h"
#if defined(LONGHAUL_EMULATOR)
#include "emulated/emulated_devices.h"
#endif

namespace longhaul::testing {

#if defined(LONGHAUL_EMULATOR)

inline const std::vector<std::string> kDevicesUnderTest = {"cuda-emulated"};
inline const std::string kFastDevice = "cuda-emulated";
inline Result<std::unique_ptr<Backend>> make_backend_under_test(const std::string&, int) {
  return make_cuda_emulated_backend(80);
}

#else

inline const std::vector<std::string> kDevicesUnderTest = {"reference", "cpu"};
// Of suites that need one device only.
inline const std::string kFastDevice = "cpu";
inline Result<std::unique_ptr<Backend>> make_backend_under_test(const std::string& device, int threads) {
  return device == "reference" ? make_reference_backend() : make_cpu_backend(threads);
}

#endif

// A parameter's name in a test's name: gtest knows letters, digits and '_'.
inline std::string test_name(std::string device) {
  for (char& c : device)
    if (c == '-' || c == ':') c = '_';
  return device;
}

}  // namespace longhaul::testing
