#include "cuda/staging.h"

#include <algorithm>
#include <cstring>

namespace longhaul::cuda {
namespace {

// Copies start at whole lines.
constexpr size_t kLine = 64;

}  // namespace

Result<std::unique_ptr<StagingRing>> StagingRing::create(Health& health, cudaStream_t stream, size_t slots,
                                                         size_t slot_bytes) {
  std::unique_ptr<StagingRing> ring(new StagingRing(health, stream, slot_bytes));
  ring->slots_.resize(slots);
  for (Slot& slot : ring->slots_) {
    void* data = nullptr;
    LONGHAUL_TRY(
        health.check(cudaHostAlloc(&data, slot_bytes, cudaHostAllocDefault), "allocating pinned memory"));
    slot.data = static_cast<char*>(data);
    LONGHAUL_TRY(
        health.check(cudaEventCreateWithFlags(&slot.sent, cudaEventDisableTiming), "creating an event"));
  }
  return ring;
}

StagingRing::~StagingRing() {
  // Nobody is left to tell but the device's health.
  static_cast<void>(health_.check(cudaStreamSynchronize(stream_), "waiting for uploads"));
  for (const Slot& slot : slots_) {
    if (slot.sent != nullptr)
      static_cast<void>(health_.check(cudaEventDestroy(slot.sent), "destroying an event"));
    if (slot.data != nullptr) {
      static_cast<void>(health_.check(cudaFreeHost(slot.data), "freeing pinned memory"));
    }
  }
}

Status StagingRing::next_slot() {
  Slot& full = slots_[slot_];
  LONGHAUL_TRY(health_.check(cudaEventRecord(full.sent, stream_), "recording an event"));
  full.on_its_way = true;
  slot_ = (slot_ + 1) % slots_.size();
  used_ = 0;
  Slot& next = slots_[slot_];
  if (next.on_its_way) LONGHAUL_TRY(health_.check(cudaEventSynchronize(next.sent), "waiting for an upload"));
  next.on_its_way = false;
  return Status();
}

Result<std::span<char>> StagingRing::room(size_t most) {
  const size_t bytes = std::min(most, slot_bytes_);
  if (slot_bytes_ - used_ < bytes) LONGHAUL_TRY(next_slot());
  return std::span<char>(slots_[slot_].data + used_, bytes);
}

Status StagingRing::send(void* device, size_t bytes) {
  const char* from = slots_[slot_].data + used_;
  used_ = std::min(slot_bytes_, (used_ + bytes + kLine - 1) / kLine * kLine);
  return health_.check(cudaMemcpyAsync(device, from, bytes, cudaMemcpyHostToDevice, stream_), "uploading");
}

Status StagingRing::upload(void* device, const void* host, size_t bytes) {
  for (size_t sent = 0; sent < bytes;) {
    LONGHAUL_ASSIGN(const std::span<char> to, room(bytes - sent));
    std::memcpy(to.data(), static_cast<const char*>(host) + sent, to.size());
    LONGHAUL_TRY(send(static_cast<char*>(device) + sent, to.size()));
    sent += to.size();
  }
  return Status();
}

}  // namespace longhaul::cuda
