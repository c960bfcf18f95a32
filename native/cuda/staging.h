// Pinned host memory on the way to the device.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <span>
#include <vector>

#include "cuda/status.h"

namespace longhaul::cuda {

// A ring of pinned slots in front of one stream. Bytes are written into a slot and sent from there, so that the
// caller's memory is free at once, nobody waits for the device, and the next slot fills while one is on its
// way.
class StagingRing {
 public:
  static Result<std::unique_ptr<StagingRing>> create(Health& health, cudaStream_t stream, size_t slots,
                                                     size_t slot_bytes);
  // Waits for what is on its way.
  ~StagingRing();
  StagingRing(const StagingRing&) = delete;
  StagingRing& operator=(const StagingRing&) = delete;

  // Room for the next `most` bytes, or for as many as a slot holds. Waits when all slots are on their way.
  Result<std::span<char>> room(size_t most);
  // Queues the copy of the room's first `bytes` to the device.
  Status send(void* device, size_t bytes);

  // room, copy and send until all is sent.
  Status upload(void* device, const void* host, size_t bytes);

 private:
  struct Slot {
    char* data = nullptr;
    cudaEvent_t sent = nullptr;
    bool on_its_way = false;
  };

  StagingRing(Health& health, cudaStream_t stream, size_t slot_bytes)
      : health_(health), stream_(stream), slot_bytes_(slot_bytes) {}
  Status next_slot();

  Health& health_;
  cudaStream_t stream_;
  size_t slot_bytes_;
  std::vector<Slot> slots_;
  size_t slot_ = 0;
  size_t used_ = 0;  // of the present slot
};

}  // namespace longhaul::cuda
