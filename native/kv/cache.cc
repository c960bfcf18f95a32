#include "kv/cache.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "core/arena.h"

namespace longhaul {

Result<std::unique_ptr<SequenceCache>> SequenceCache::create(Backend& backend, Stream& stream, PagePool& pool,
                                                             int64_t head_rows, int64_t pages,
                                                             int64_t most_pages) {
  const KvGeometry& geometry = pool.geometry();
  std::unique_ptr<SequenceCache> cache(new SequenceCache(backend, stream, pool));
  cache->max_pages_ = static_cast<int32_t>(pages_for(head_rows));

  auto lay_out = [&](Arena arena) {
    cache->page_table_ = arena.take(DType::kI32, {geometry.layers, geometry.kv_heads, cache->max_pages_});
    cache->lengths_ = arena.take(DType::kI32, {geometry.layers, geometry.kv_heads});
    cache->free_pages_ = arena.take(DType::kI32, {most_pages});
    cache->free_count_ = arena.take(DType::kI32, {2});
    return arena.used();
  };
  LONGHAUL_ASSIGN(cache->tables_, backend.allocate(lay_out(Arena()), MemoryUse::kTables));
  lay_out(Arena(cache->tables_));
  LONGHAUL_ASSIGN(cache->height_, backend.make_readback(2 * sizeof(int32_t)));
  LONGHAUL_TRY(cache->grow(pages));
  return cache;
}

SequenceCache::~SequenceCache() {
  // Nothing may be on its way into memory that is freed; a failure was, or will be, told to somebody who waits.
  if (collecting_) static_cast<void>(settle());
  pool_->account(used_pages_, 0, used_pages_);
  pool_->release(reserved_);
}

Status SequenceCache::grow(int64_t pages) {
  const int64_t more = pages - reserved_pages();
  if (more <= 0) return Status();
  if (pages > free_pages_.shape[0]) {
    return internal_error("a sequence made for " + std::to_string(free_pages_.shape[0]) +
                          " pages cannot grow to " + std::to_string(pages));
  }
  std::array<int32_t, 2> count;
  LONGHAUL_TRY(backend_->download(*stream_, count.data(), free_count_.data, sizeof count));
  LONGHAUL_TRY(pool_->reserve(more, reserved_));

  // The stack is popped from its end: reversed, the pages come out in the order the pool gave them.
  const std::vector<int32_t> added(reserved_.rbegin(), reserved_.rbegin() + more);
  LONGHAUL_TRY(backend_->upload(*stream_, free_pages_.as<int32_t>() + count[0], added.data(),
                                added.size() * sizeof(int32_t)));
  count[0] += static_cast<int32_t>(more);
  count[1] = count[0];
  return backend_->upload(*stream_, free_count_.data, count.data(), sizeof count);
}

Status SequenceCache::shrink(int64_t pages) {
  std::array<int32_t, 2> count;
  LONGHAUL_TRY(backend_->download(*stream_, count.data(), free_count_.data, sizeof count));
  const int64_t fewer = std::min<int64_t>(reserved_pages() - pages, count[0]);
  if (fewer <= 0) return Status();
  std::vector<int32_t> given(static_cast<size_t>(fewer));
  count[0] -= static_cast<int32_t>(fewer);
  count[1] = count[0];
  LONGHAUL_TRY(backend_->download(*stream_, given.data(), free_pages_.as<int32_t>() + count[0],
                                  given.size() * sizeof(int32_t)));
  LONGHAUL_TRY(backend_->upload(*stream_, free_count_.data, count.data(), sizeof count));

  // The pool gives them again in the order in which they would have come off the stack.
  std::reverse(given.begin(), given.end());
  pool_->release(given);
  std::sort(given.begin(), given.end());
  std::erase_if(reserved_, [&](int32_t page) { return std::binary_search(given.begin(), given.end(), page); });
  return Status();
}

CacheView SequenceCache::view(int32_t layer, int32_t row_begin, int32_t row_count) const {
  return {.page_table = page_table_.slice(layer, 1).as<int32_t>(),
          .length = lengths_.slice(layer, 1).as<int32_t>(),
          .free_pages = free_pages_.as<int32_t>(),
          .free_count = free_count_.as<int32_t>(),
          .max_pages = max_pages_,
          .row_begin = row_begin,
          .row_count = row_count};
}

Status SequenceCache::collect() {
  collecting_ = true;
  return height_->fetch(*stream_, free_count_.data);
}

Status SequenceCache::settle() {
  SequenceCache* const self = this;
  return settle_together({&self, 1});
}

Status SequenceCache::settle_together(std::span<SequenceCache* const> caches) {
  for (SequenceCache* cache : caches) {
    if (!cache->collecting_) LONGHAUL_TRY(cache->collect());
  }
  for (SequenceCache* cache : caches) cache->collecting_ = false;
  LONGHAUL_TRY(caches.front()->stream_->synchronize());
  int64_t used_before = 0;
  int64_t used_after = 0;
  int64_t most_inside = 0;
  for (SequenceCache* cache : caches) {
    std::array<int32_t, 2> count;
    std::memcpy(count.data(), cache->height_->data(), sizeof count);
    const int64_t most = cache->reserved_pages() - count[1];
    used_before += cache->used_pages_;
    cache->used_pages_ = cache->reserved_pages() - count[0];
    cache->peak_pages_ = std::max(cache->peak_pages_, most);
    used_after += cache->used_pages_;
    most_inside += most;
    if (count[1] == count[0]) continue;
    count[1] = count[0];
    LONGHAUL_TRY(
        cache->backend_->upload(*cache->stream_, cache->free_count_.data, count.data(), sizeof count));
  }
  caches.front()->pool_->account(used_before, used_after, most_inside);
  return Status();
}

Result<Buffer> SequenceCache::layer_views() const {
  std::vector<CacheView> views;
  for (int32_t layer = 0; layer < pool_->geometry().layers; ++layer) views.push_back(view(layer, 0, 0));
  LONGHAUL_ASSIGN(Buffer device, backend_->allocate(views.size() * sizeof(CacheView), MemoryUse::kTables));
  LONGHAUL_TRY(backend_->upload(*stream_, device.data(), views.data(), device.bytes()));
  return device;
}

Status SequenceCache::truncate(int32_t rows) {
  if (rows == 0) return Status();
  LONGHAUL_ASSIGN(const Buffer views, layer_views());
  LONGHAUL_TRY(run(*backend_, *stream_,
                   TruncateArgs{.views = static_cast<const CacheView*>(views.data()),
                                .sequences = pool_->geometry().layers,
                                .kv_heads = pool_->geometry().kv_heads,
                                .drop = rows}));
  LONGHAUL_TRY(stream_->synchronize());  // before `views` goes
  rows_added_ -= rows;
  return settle();
}

Result<PackedPositions> SequenceCache::pack_positions(const Tensor& frequencies, int32_t settled,
                                                      int32_t limit) {
  LONGHAUL_ASSIGN(const std::vector<int32_t> held, lengths());
  const int32_t most = held.empty() ? 0 : *std::max_element(held.begin(), held.end());
  PackedPositions packed{.begin = int64_t{settled} + most <= limit ? settled : 0};
  packed.end = packed.begin + most;
  if (most == 0) return packed;
  LONGHAUL_ASSIGN(const Buffer views, layer_views());
  LONGHAUL_TRY(run(*backend_, *stream_,
                   PackPositionsArgs{.pages = pool_->arrays(),
                                     .views = static_cast<const CacheView*>(views.data()),
                                     .sequences = pool_->geometry().layers,
                                     .frequencies = frequencies,
                                     .kv_heads = pool_->geometry().kv_heads,
                                     .begin = packed.begin,
                                     .end = packed.end,
                                     .max_length = most}));
  LONGHAUL_TRY(stream_->synchronize());  // before `views` goes
  return packed;
}

}  // namespace longhaul
