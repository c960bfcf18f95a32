// The cache of one sequence: page tables, lengths and a stack of reserved pages in device memory.
//
// Rows of a head are frozen rows (ragged between heads, changed only by eviction) followed by the tail (equally
// long in all layers and heads). Both live in the same list of pages, in time order.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/ops.h"
#include "kv/page_pool.h"

namespace longhaul {

// Which rows a cache holds: all of it but keys and values.
struct CacheIndex {
  std::vector<int32_t> lengths;    // [layers, kv_heads]
  std::vector<int32_t> positions;  // [rows], head after head; rows = sum of lengths
};

// Host copy of one layer, for reports and tests. `rows` = sum of lengths, head after head.
struct LayerRows {
  std::vector<int32_t> lengths;    // [kv_heads]
  std::vector<int32_t> positions;  // [rows]
  std::vector<float> k, v;         // [rows, head_dim]
};

struct PackedPositions {
  int32_t begin = 0;  // rows below kept their positions
  int32_t end = 0;    // of all heads: the next position
};

class SequenceCache {
 public:
  // Room for heads of up to `head_rows` rows, with `pages` reserved now (more by grow()).
  // `most_pages` is the largest reservation it may ever grow to.
  static Result<std::unique_ptr<SequenceCache>> create(Backend& backend, Stream& stream, PagePool& pool,
                                                       int64_t head_rows, int64_t pages, int64_t most_pages);
  ~SequenceCache();
  SequenceCache(const SequenceCache&) = delete;
  SequenceCache& operator=(const SequenceCache&) = delete;

  // Reserves pages until `pages` are reserved in all. kOutOfMemory changes nothing.
  Status grow(int64_t pages);
  // Gives pages that hold no rows back to the pool until `pages` are reserved in all, or all that are left do.
  Status shrink(int64_t pages);

  // This sequence in `layer`, with `row_count` rows of the step that begin at row `row_begin`.
  CacheView view(int32_t layer, int32_t row_begin, int32_t row_count) const;
  // Rows a head can hold at most.
  int64_t head_capacity() const { return int64_t{max_pages_} * kPageRows; }
  // Rows a head may hold now: eviction takes rows where the host does not see it, so this never shrinks by it.
  int64_t most_rows() const { return std::min(rows_added_, head_capacity()); }
  // Every head gets `rows` rows with the next pass.
  void expect_rows(int64_t rows) { rows_added_ += rows; }

  // After every pass the stack's height is brought to the host and the pool told. collect() queues the copy,
  // settle() waits for the stream and takes it; nothing else may be queued for this cache between them.
  Status collect();
  Status settle();
  // The same for caches of one pool whose rows shared a pass: what each held at most, they held at once.
  static Status settle_together(std::span<SequenceCache* const> caches);
  bool collecting() const { return collecting_; }

  // Drops the newest `rows` rows of every head in every layer.
  Status truncate(int32_t rows);
  // Gives back positions of dropped rows: those from `settled` on move up to it (PackPositionsArgs) when all
  // heads' then end at or below `limit`, or all rows to the beginning. Waits.
  Result<PackedPositions> pack_positions(const Tensor& frequencies, int32_t settled, int32_t limit);

  Result<std::vector<int32_t>> lengths();  // [layers, kv_heads]
  Result<LayerRows> read_layer(int32_t layer);
  // Keys of the newest `rows` rows of every head, which must hold as many. [kv_heads, rows, head_dim]
  Result<std::vector<float>> read_newest_keys(int32_t layer, int32_t rows);

  // What the cache holds, on the host: the index, and head by head [2, length, head_dim], keys then values, in
  // the pool's dtype.
  Result<CacheIndex> index();
  Result<std::vector<uint8_t>> read_head(int32_t layer, int32_t head);
  // The way back. Takes the pages of an index's rows in a cache that is empty and has reserved them; the caller
  // has checked that the index fits. Every head that has rows then needs its keys and values, as read_head gave
  // them.
  Status take_index(const CacheIndex& index, int64_t peak_pages);
  Status write_head(int32_t layer, int32_t head, std::span<const uint8_t> rows);

  int64_t reserved_pages() const { return static_cast<int64_t>(reserved_.size()); }
  int64_t used_pages() const { return used_pages_; }
  int64_t peak_pages() const { return peak_pages_; }
  int64_t page_bytes() const { return pool_->page_bytes(); }
  size_t table_bytes() const { return tables_.bytes(); }

 private:
  SequenceCache(Backend& backend, Stream& stream, PagePool& pool)
      : backend_(&backend), stream_(&stream), pool_(&pool) {}

  Result<Buffer> layer_views() const;  // of all layers, without rows of a step
  size_t row_bytes() const;            // of the keys of one row
  int32_t* head_table(int32_t layer, int32_t head) const;
  Result<std::vector<int32_t>> head_pages(int32_t layer, int32_t head, int32_t length);
  Status read_positions(int32_t layer, int32_t head, int32_t length, std::vector<int32_t>& out);

  Backend* backend_;
  Stream* stream_;
  PagePool* pool_;
  Buffer tables_;
  Tensor page_table_;  // [layers, kv_heads, max_pages] i32
  Tensor lengths_;     // [layers, kv_heads] i32
  Tensor free_pages_;  // [most_pages] i32
  Tensor free_count_;  // [2] i32
  int32_t max_pages_ = 0;
  std::vector<int32_t> reserved_;
  int64_t used_pages_ = 0;
  int64_t peak_pages_ = 0;
  int64_t rows_added_ = 0;
  std::unique_ptr<Readback> height_;  // free_count_ as it was collected
  bool collecting_ = false;
};

}  // namespace longhaul
