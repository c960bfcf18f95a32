#include "cuda/stream.h"

#include <utility>

namespace longhaul::cuda {
namespace {

// A decode step uploads a few hundred bytes: thousands of steps fit before a slot comes round again.
constexpr size_t kSlots = 4;
constexpr size_t kSlotBytes = size_t{256} << 10;

}  // namespace

Result<std::unique_ptr<CudaStream>> CudaStream::create(cudaStream_t handle, const DeviceTraits& traits,
                                                       Health& health) {
  std::unique_ptr<CudaStream> stream(new CudaStream(handle, traits, health));
  void* failure = nullptr;
  LONGHAUL_TRY(health.check(cudaHostAlloc(&failure, sizeof(uint64_t), cudaHostAllocDefault),
                            "allocating pinned memory"));
  stream->failure_ = static_cast<unsigned long long*>(failure);
  *stream->failure_ = kNoFailure;
  return stream;
}

CudaStream::~CudaStream() {
  staging_.reset();
  static_cast<void>(health_.check(cudaStreamDestroy(handle_), "destroying a stream"));
  if (failure_ != nullptr) static_cast<void>(health_.check(cudaFreeHost(failure_), "freeing pinned memory"));
}

Status CudaStream::synchronize() {
  LONGHAUL_TRY(health_.status());
  LONGHAUL_TRY(health_.check(cudaStreamSynchronize(handle_), "waiting for the GPU"));
  return failure_status(std::exchange(*failure_, kNoFailure));
}

Status CudaStream::upload(void* device, const void* host, size_t bytes) {
  if (staging_ == nullptr) {
    LONGHAUL_ASSIGN(staging_, StagingRing::create(health_, handle_, kSlots, kSlotBytes));
  }
  return staging_->upload(device, host, bytes);
}

}  // namespace longhaul::cuda
