// The emulated GPUs as backends. register_devices.cc makes them devices by name: "cuda-emulated" is sm_80,
// "cuda-emulated:1" sm_90.
#pragma once

#include <memory>

#include "core/backend.h"

namespace longhaul::testing {

// A backend on the emulator with this compute capability: 80 or 90, so that both families of kernels are
// chosen.
Result<std::unique_ptr<Backend>> make_cuda_emulated_backend(int compute_capability);

}  // namespace longhaul::testing
