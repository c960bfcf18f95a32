// Linked into programs that open devices by name.
#include "core/device_family.h"
#include "emulated/emulated_devices.h"
#include "engine/devices.h"

namespace longhaul::testing {
namespace {

constexpr int kCapabilities[] = {80, 90};

Result<std::unique_ptr<Backend>> open(int index) {
  if (index > 1) return unsupported("there are two emulated devices: 0 is sm_80, 1 is sm_90");
  return make_cuda_emulated_backend(kCapabilities[index]);
}

Result<std::string> describe(int index) {
  LONGHAUL_ASSIGN(const std::unique_ptr<Backend> backend, open(index));
  return backend->description();
}

constexpr DeviceFamily kEmulated = {describe, open};

[[maybe_unused]] const bool registered = [] {
  register_devices("cuda-emulated", kEmulated);
  return true;
}();

}  // namespace
}  // namespace longhaul::testing
