#include "cuda/stream.h"

namespace longhaul::cuda {
namespace {

// A decode step uploads a few hundred bytes: thousands of steps fit before a slot comes round again.
constexpr size_t kSlots = 4;
constexpr size_t kSlotBytes = size_t{256} << 10;

}  // namespace

CudaStream::~CudaStream() {
  staging_.reset();
  static_cast<void>(health_.check(cudaStreamDestroy(handle_), "destroying a stream"));
}

Status CudaStream::synchronize() {
  LONGHAUL_TRY(health_.status());
  return health_.check(cudaStreamSynchronize(handle_), "waiting for the GPU");
}

Status CudaStream::upload(void* device, const void* host, size_t bytes) {
  if (staging_ == nullptr) {
    LONGHAUL_ASSIGN(staging_, StagingRing::create(health_, handle_, kSlots, kSlotBytes));
  }
  return staging_->upload(device, host, bytes);
}

}  // namespace longhaul::cuda
