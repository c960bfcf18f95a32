// liblonghaul_cuda.so, opened when somebody asks for a GPU.
#pragma once

#include <string>

#include "core/device_family.h"

namespace longhaul {

// The devices of the library in `directory`; without one, beside the code that asks: the addon or the program.
// kUnsupported when it is not there, cannot be loaded, or was built from other sources than this code.
Result<const DeviceFamily*> open_cuda_library(const std::string& directory);
Result<const DeviceFamily*> open_cuda_library();

}  // namespace longhaul
