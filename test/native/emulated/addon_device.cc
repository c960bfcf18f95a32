// Linked into a test build of the addon: the emulated GPU is device "cuda" there, and info() does to it what
// LONGHAUL_EMULATOR_INJECT says: "launch N", "allocation N" and "loss N" let the N-th of them from now fail,
// "reset" makes the device like new.
#include <cstdlib>
#include <cstring>

#include "core/device_family.h"
#include "cuda/backend.h"
#include "emulator/emulator.h"
#include "engine/devices.h"

namespace longhaul::testing {
namespace {

void inject() {
  const char* text = std::getenv("LONGHAUL_EMULATOR_INJECT");
  if (text == nullptr) return;
  const char* space = std::strchr(text, ' ');
  const uint64_t n = space != nullptr ? std::strtoull(space, nullptr, 10) : 0;
  const std::string what(text, space != nullptr ? static_cast<size_t>(space - text) : std::strlen(text));
  if (what == "launch") emulator::fail_launch(n);
  if (what == "allocation") emulator::fail_allocation(n);
  if (what == "loss") emulator::lose_device(n);
  if (what == "reset") emulator::reset();
}

Result<std::string> describe(int index) {
  if (index == 0) inject();
  return describe_cuda_device(index);
}

constexpr DeviceFamily kEmulated = {describe, make_cuda_backend};

[[maybe_unused]] const bool registered = [] {
  register_devices("cuda", kEmulated);
  return true;
}();

}  // namespace
}  // namespace longhaul::testing
