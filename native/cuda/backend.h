// The CUDA backend: one GPU, or the emulator where the room is compiled for it.
#pragma once

#include <memory>
#include <string>

#include "core/backend.h"

namespace longhaul {

// `device` is CUDA's index. kUnsupported names the driver's own words when there is no usable GPU.
Result<std::unique_ptr<Backend>> make_cuda_backend(int device);

// The description such a backend would have; uses no memory of the GPU.
Result<std::string> describe_cuda_device(int device);

}  // namespace longhaul
