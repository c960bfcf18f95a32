// A bump allocator over one piece of memory. Laid out twice: once over nothing, to learn the size, once for
// real.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "core/backend.h"
#include "core/tensor.h"

namespace longhaul {

class Arena {
 public:
  static constexpr size_t kAlignment = 64;

  // Without memory the arena only measures: its tensors have null data.
  Arena() = default;
  explicit Arena(const Buffer& buffer) : Arena(buffer.data()) {}
  explicit Arena(void* memory) : base_(static_cast<char*>(memory)) {}

  Tensor take(DType dtype, std::initializer_list<int64_t> shape) {
    Tensor t = Tensor::dense(nullptr, dtype, shape);
    t.data = take_bytes(static_cast<size_t>(t.bytes()));
    return t;
  }

  void* take_bytes(size_t bytes) {
    void* at = base_ ? base_ + used_ : nullptr;
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return at;
  }

  size_t used() const { return used_; }

 private:
  char* base_ = nullptr;
  size_t used_ = 0;
};

}  // namespace longhaul
