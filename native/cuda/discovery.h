// Which GPU to use, or in the driver's own words why none can be.
#pragma once

#include <string>

#include "cuda/stream.h"

namespace longhaul::cuda {

struct FoundDevice {
  DeviceTraits traits;
  std::string
      description;  // "NVIDIA H200, 132 multiprocessors, compute capability 9.0, driver 580.65.06, CUDA 13.0"
};

// kUnsupported when there is no driver, an old one, no such GPU, or one older than compute capability 8.0.
Result<FoundDevice> find_device(int device);

}  // namespace longhaul::cuda
