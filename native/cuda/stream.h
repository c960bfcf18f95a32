// A CUDA stream, and what launchers need to know of the device behind it.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>

#include "core/backend.h"
#include "cuda/failure.h"
#include "cuda/staging.h"
#include "cuda/status.h"

namespace longhaul::cuda {

// Read once when the backend is made.
struct DeviceTraits {
  int device = 0;
  int compute_capability = 0;  // 80, 90, 100, 120
  int multiprocessors = 0;
  size_t shared_memory_per_block = 0;  // bytes, after opting in
};

// Ops are put into it by threads that have called its backend: that is what makes the device theirs.
class CudaStream final : public Stream {
 public:
  // Traits and health belong to the backend, which lives longer. Takes the handle, destroyed also on failure.
  static Result<std::unique_ptr<CudaStream>> create(cudaStream_t handle, const DeviceTraits& traits,
                                                    Health& health);
  ~CudaStream() override;
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;

  // Also the failure of a kernel that could not go on, once: what it reports is then forgotten.
  Status synchronize() override;

  // In the stream's order, through pinned memory; `host` may be reused on return.
  Status upload(void* device, const void* host, size_t bytes);

  // What a launch returned, as the op's result: `return stream.launched(launch(...), "gemm")`. Errors of the
  // kernel's run come with a later call.
  Status launched(cudaError_t error, const char* kernel) { return health_.check(error, kernel); }

  cudaStream_t handle() const { return handle_; }
  const DeviceTraits& traits() const { return traits_; }
  Health& health() const { return health_; }
  // Where kernels leave a failure_word (failure.h).
  unsigned long long* failure() const { return failure_; }

 private:
  CudaStream(cudaStream_t handle, const DeviceTraits& traits, Health& health)
      : handle_(handle), traits_(traits), health_(health) {}

  cudaStream_t handle_;
  const DeviceTraits& traits_;
  Health& health_;
  unsigned long long* failure_ = nullptr;  // pinned: the host reads it without a copy
  std::unique_ptr<StagingRing> staging_;   // made by the first upload
};

// Streams passed to this backend's ops come from its make_stream.
inline CudaStream& cuda_stream(Stream& stream) {
  return static_cast<CudaStream&>(stream);
}

}  // namespace longhaul::cuda
