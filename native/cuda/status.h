// What the CUDA runtime says, as a Status.
#pragma once

#include <cuda_runtime_api.h>

#include "core/status.h"

namespace longhaul::cuda {

// Ok for cudaSuccess. Otherwise `what` was being done: kOutOfMemory for a failed allocation, kDeviceLost for
// errors after which the context is unusable, kUnsupported for a missing or too old driver, else kInternal; the
// message holds CUDA's own name and words.
Status to_status(cudaError_t error, const char* what);

}  // namespace longhaul::cuda
