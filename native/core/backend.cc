#include "core/backend.h"

namespace longhaul {

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
