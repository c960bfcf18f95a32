// What the CUDA runtime says, as a Status.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <mutex>

#include "core/status.h"

namespace longhaul::cuda {

// Ok for cudaSuccess. Otherwise `what` was being done: kOutOfMemory for a failed allocation, kDeviceLost for
// errors after which the context is unusable, kUnsupported for a missing or too old driver or a GPU that this
// build has no code for, else kInternal; the message holds CUDA's own name and words.
Status to_status(cudaError_t error, const char* what);

// Whether one device still works. CUDA gives up a context after some errors, for as long as the process lives:
// the first of them is kept, and every later call answers it without asking CUDA again.
class Health {
 public:
  // to_status of what a call of the runtime returned.
  Status check(cudaError_t error, const char* what);
  // Ok, or kDeviceLost with the error that lost the device.
  Status status() const;

 private:
  std::atomic<bool> lost_{false};
  mutable std::mutex mutex_;
  Status reason_;
};

}  // namespace longhaul::cuda
