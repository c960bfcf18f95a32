#include "core/backend.h"

#include <vector>

namespace longhaul {
namespace {

// Where device memory is host memory there is nothing to wait for.
class Download final : public Readback {
 public:
  Download(Backend& backend, size_t bytes) : backend_(backend), bytes_(bytes) {}
  Status fetch(Stream& stream, const void* device) override {
    return backend_.download(stream, bytes_.data(), device, bytes_.size());
  }
  const void* data() const override { return bytes_.data(); }

 private:
  Backend& backend_;
  std::vector<char> bytes_;
};

}  // namespace

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  backend_->free_bytes(data_, bytes_);
  backend_->allocated_[static_cast<int>(use_)] -= bytes_;
}

Result<Buffer> Backend::allocate(size_t bytes, MemoryUse use) {
  if (bytes == 0) return Buffer();
  LONGHAUL_ASSIGN(void* data, allocate_bytes(bytes));
  allocated_[static_cast<int>(use)] += bytes;
  return Buffer(this, data, bytes, use);
}

Status Backend::cannot_allocate(size_t bytes) const {
  return out_of_memory("device '" + name() + "' cannot allocate " + std::to_string(bytes) + " bytes");
}

Result<std::unique_ptr<Readback>> Backend::make_readback(size_t bytes) {
  return std::unique_ptr<Readback>(std::make_unique<Download>(*this, bytes));
}

Status Backend::begin_capture(Stream&) {
  return unsupported("device '" + name() + "' does not record operations");
}

Result<std::unique_ptr<Graph>> Backend::end_capture(Stream&) {
  return unsupported("device '" + name() + "' does not record operations");
}

Status Backend::replay(Stream&, const Graph&) {
  return unsupported("device '" + name() + "' does not record operations");
}

}  // namespace longhaul
