// The one symbol of liblonghaul_cuda.so. engine/cuda_library.cc asks for it.
#include <cstring>

#include "core/device_family.h"
#include "cuda/backend.h"

// Null when `interface` is not what this library was built from: only then are the types behind it the same.
extern "C" __attribute__((visibility("default"))) const longhaul::DeviceFamily* longhaul_cuda_devices(
    const char* interface) {
  static constexpr longhaul::DeviceFamily kFamily = {longhaul::describe_cuda_device,
                                                     longhaul::make_cuda_backend};
  return std::strcmp(interface, LONGHAUL_INTERFACE) == 0 ? &kFamily : nullptr;
}
