// Caches of several like sequences in one pool, with their pages in random places.
#pragma once

#include <memory>
#include <vector>

#include "memory.h"

namespace longhaul::bench {

struct CacheSpec {
  DType dtype = DType::kBf16;
  int64_t kv_heads = 0;
  int64_t dim = 0;
  int64_t rows = 0;       // held by each head
  int64_t step_rows = 0;  // CacheView::row_count
  int64_t room = 0;       // rows a head that can still be appended
  int64_t batch = 1;      // sequences of one step, whose rows follow each other
  // Pages of a head that are neighbours: a block of 512 rows takes so many at once, rows drawn one by one take
  // single ones.
  int64_t run_pages = 32;
};

class PagedCaches {
 public:
  // As many sequences as it takes to find each in memory, not in a cache.
  static Result<std::unique_ptr<PagedCaches>> create(Memory& memory, const CacheSpec& spec);

  const PageArrays& pages() const { return pages_; }
  int64_t sequences() const { return sequences_; }
  const CacheView* view(int64_t sequence) const { return views_ + sequence; }

  // Puts lengths, page tables and free pages of a sequence back to what they were at first.
  Status restore(int64_t sequence);

 private:
  explicit PagedCaches(Memory& memory) : memory_(memory) {}

  struct Table {
    Tensor device;  // [sequences, n] i32
    std::vector<int32_t> host;
  };
  Status restore(const Table& table, int64_t sequence);

  Memory& memory_;
  PageArrays pages_;
  int64_t sequences_ = 0;
  const CacheView* views_ = nullptr;
  Table page_table_, lengths_, free_pages_, free_count_;
};

// Every second row of a head on average, ascending, the same for all models: rows in front of the first hole do
// not move.
std::vector<int32_t> half_of(uint64_t seed, int64_t rows);

}  // namespace longhaul::bench
