// All keys and values of an engine: one pool of fixed pages, reserved by sequences before they start.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/ops.h"

namespace longhaul {

// What one row of keys and values looks like.
struct KvGeometry {
  int32_t layers = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  DType dtype = DType::kF32;

  // K, V and the position of kPageRows rows of one head.
  int64_t page_bytes() const {
    return kPageRows *
           (2 * head_dim * static_cast<int64_t>(size_of(dtype)) + static_cast<int64_t>(sizeof(int32_t)));
  }
};

constexpr int64_t pages_for(int64_t rows) {
  return (rows + kPageRows - 1) / kPageRows;
}

class PagePool {
 public:
  // As many whole pages as fit in `bytes`. kOutOfMemory when that is none or the device refuses.
  static Result<std::unique_ptr<PagePool>> create(Backend& backend, const KvGeometry& geometry, int64_t bytes);

  const KvGeometry& geometry() const { return geometry_; }
  const PageArrays& arrays() const { return arrays_; }
  int64_t page_bytes() const { return geometry_.page_bytes(); }
  int64_t total_pages() const { return total_pages_; }
  int64_t reserved_pages() const { return total_pages_ - static_cast<int64_t>(free_.size()); }

  // Takes `count` pages out of the free ones, or none: kOutOfMemory.
  Status reserve(int64_t count, std::vector<int32_t>& pages);
  void release(std::span<const int32_t> pages);

  // Pages that hold rows. Caches report their own change after each pass, with the most they held inside it.
  void account(int64_t used_before, int64_t used_after, int64_t most_inside);
  int64_t used_pages() const { return used_pages_; }
  int64_t peak_pages() const { return peak_pages_; }

 private:
  PagePool() = default;

  KvGeometry geometry_;
  PageArrays arrays_;
  Buffer buffer_;
  int64_t total_pages_ = 0;
  std::vector<int32_t> free_;
  int64_t used_pages_ = 0;
  int64_t peak_pages_ = 0;
};

}  // namespace longhaul
