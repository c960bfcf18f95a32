// A CUDA stream, and what launchers need to know of the device behind it.
#pragma once

#include <cuda_runtime_api.h>

#include "core/backend.h"

namespace longhaul::cuda {

// Read once when the backend is made.
struct DeviceTraits {
  int device = 0;
  int compute_capability = 0;  // 80, 90, 100, 120
  int multiprocessors = 0;
  size_t shared_memory_per_block = 0;  // bytes, after opting in
};

class CudaStream final : public Stream {
 public:
  CudaStream(cudaStream_t handle, const DeviceTraits& traits) : handle_(handle), traits_(traits) {}
  ~CudaStream() override;
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;

  Status synchronize() override;

  cudaStream_t handle() const { return handle_; }
  const DeviceTraits& traits() const { return traits_; }

 private:
  cudaStream_t handle_;
  const DeviceTraits& traits_;
};

// Streams passed to this backend's ops come from its make_stream.
inline CudaStream& cuda_stream(Stream& stream) {
  return static_cast<CudaStream&>(stream);
}

}  // namespace longhaul::cuda
