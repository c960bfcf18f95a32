// Paged caches of several sequences for the op tests: shuffled pages, ragged heads, stacks of spare pages.
#pragma once

#include <vector>

#include "ops/device.h"

namespace longhaul::testing {

struct CacheShape {
  DType dtype = DType::kF32;
  int32_t dim = 16;
  std::vector<std::vector<int32_t>> lengths;  // [sequences][kv_heads] rows held
  int32_t spare_pages = 0;                    // on each sequence's stack
};

struct CacheCase {
  CacheCase(Random& random, const CacheShape& shape);

  int64_t sequences() const { return static_cast<int64_t>(tables.size()); }
  int32_t kv_heads() const { return static_cast<int32_t>(tables[0].shape[0]); }
  int32_t dim() const { return static_cast<int32_t>(k.shape[2]); }
  int32_t length(int64_t sequence, int32_t head) const;
  int32_t longest() const;

  // Row `row` of a head: its place among the pages' rows.
  int64_t slot(int64_t sequence, int32_t head, int32_t row) const;
  std::vector<double> key(int64_t sequence, int32_t head, int32_t row) const;
  std::vector<double> value(int64_t sequence, int32_t head, int32_t row) const;
  int32_t position(int64_t sequence, int32_t head, int32_t row) const;
  std::vector<int32_t> stack(int64_t sequence) const;

  Array k, v, positions;
  std::vector<Array> tables, lengths, stacks, counts;  // one a sequence
  std::vector<int32_t> row_begin, row_count;           // the step; empty: no rows
};

// A cache in device memory.
struct PlacedCache {
  PageArrays pages;
  const CacheView* views = nullptr;
};

enum class CacheUse { kRead, kWrite };
PlacedCache place(Placement& placement, CacheCase& cache, CacheUse use);

// Lengths, pages in use, stacks with their marks and all rows held, bit by bit.
void expect_same(const CacheCase& actual, const CacheCase& expected);

}  // namespace longhaul::testing
