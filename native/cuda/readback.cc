#include "cuda/readback.h"

#include "cuda/stream.h"

namespace longhaul::cuda {
namespace {

class PinnedReadback final : public Readback {
 public:
  PinnedReadback(Health& health, void* data, size_t bytes) : health_(health), data_(data), bytes_(bytes) {}
  ~PinnedReadback() override { static_cast<void>(health_.check(cudaFreeHost(data_), "freeing pinned memory")); }
  PinnedReadback(const PinnedReadback&) = delete;
  PinnedReadback& operator=(const PinnedReadback&) = delete;

  Status fetch(Stream& stream, const void* device) override {
    LONGHAUL_TRY(health_.status());
    return health_.check(
        cudaMemcpyAsync(data_, device, bytes_, cudaMemcpyDeviceToHost, cuda_stream(stream).handle()),
        "downloading");
  }
  const void* data() const override { return data_; }

 private:
  Health& health_;
  void* data_;
  size_t bytes_;
};

}  // namespace

Result<std::unique_ptr<Readback>> make_readback(Health& health, size_t bytes) {
  void* data = nullptr;
  LONGHAUL_TRY(health.check(cudaHostAlloc(&data, bytes, cudaHostAllocDefault), "allocating pinned memory"));
  return std::unique_ptr<Readback>(std::make_unique<PinnedReadback>(health, data, bytes));
}

}  // namespace longhaul::cuda
