#include "kv/page_pool.h"

#include <algorithm>
#include <limits>

namespace longhaul {

Result<std::unique_ptr<PagePool>> PagePool::create(Backend& backend, const KvGeometry& geometry,
                                                   int64_t bytes) {
  const int64_t page_bytes = geometry.page_bytes();
  const int64_t pages = std::min<int64_t>(bytes / page_bytes, std::numeric_limits<int32_t>::max());
  if (pages < 1) {
    return out_of_memory("the KV pool of " + std::to_string(bytes) + " bytes holds no page: one page of " +
                         std::to_string(kPageRows) + " rows takes " + std::to_string(page_bytes) +
                         " bytes; raise kvBytes");
  }
  std::unique_ptr<PagePool> pool(new PagePool());
  pool->geometry_ = geometry;
  pool->total_pages_ = pages;
  LONGHAUL_ASSIGN(pool->buffer_, backend.allocate(static_cast<size_t>(pages * page_bytes), MemoryUse::kPool));

  // Three arrays one behind the other; 16 rows keep each of them aligned to 64 bytes or better.
  char* base = static_cast<char*>(pool->buffer_.data());
  pool->arrays_.k = Tensor::dense(base, geometry.dtype, {pages, kPageRows, geometry.head_dim});
  base += pool->arrays_.k.bytes();
  pool->arrays_.v = Tensor::dense(base, geometry.dtype, {pages, kPageRows, geometry.head_dim});
  base += pool->arrays_.v.bytes();
  pool->arrays_.positions = Tensor::dense(base, DType::kI32, {pages, kPageRows});

  // A stack with the lowest ids on top: a fresh sequence gets neighbouring pages.
  pool->free_.resize(static_cast<size_t>(pages));
  for (int64_t i = 0; i < pages; ++i) pool->free_[static_cast<size_t>(i)] = static_cast<int32_t>(pages - 1 - i);
  return pool;
}

Status PagePool::reserve(int64_t count, std::vector<int32_t>& pages) {
  if (count > static_cast<int64_t>(free_.size())) {
    return out_of_memory("the KV pool has " + std::to_string(free_.size()) + " of " +
                         std::to_string(total_pages_) + " pages free and " + std::to_string(count) +
                         " are needed (" + std::to_string(count * page_bytes()) + " bytes)");
  }
  pages.insert(pages.end(), free_.rbegin(), free_.rbegin() + count);
  free_.resize(free_.size() - static_cast<size_t>(count));
  return Status();
}

void PagePool::release(std::span<const int32_t> pages) {
  free_.insert(free_.end(), pages.rbegin(), pages.rend());
}

void PagePool::account(int64_t used_before, int64_t used_after, int64_t most_inside) {
  peak_pages_ = std::max(peak_pages_, used_pages_ - used_before + most_inside);
  used_pages_ += used_after - used_before;
}

}  // namespace longhaul
