#include "ops/cache_case.h"

#include <algorithm>

namespace longhaul::testing {
namespace {

int32_t pages_of(int32_t rows) {
  return (rows + kPageRows - 1) / kPageRows;
}

std::vector<double> row_of(const Array& pages, int64_t slot) {
  const int64_t dim = pages.shape[2];
  std::vector<double> out(static_cast<size_t>(dim));
  for (int64_t d = 0; d < dim; ++d) out[static_cast<size_t>(d)] = pages.get(slot * dim + d);
  return out;
}

}  // namespace

CacheCase::CacheCase(Random& random, const CacheShape& shape) {
  int32_t total = 0;
  for (const auto& heads : shape.lengths) {
    total += shape.spare_pages;
    for (int32_t length : heads) total += pages_of(length);
  }
  total = std::max(total, 1);
  k = Array::normal(random, shape.dtype, {total, kPageRows, shape.dim});
  v = Array::normal(random, shape.dtype, {total, kPageRows, shape.dim});
  positions = Array(DType::kI32, {total, kPageRows});
  for (int64_t i = 0; i < positions.size(); ++i) positions.set(i, static_cast<double>(random() % 100000));

  const std::vector<int32_t> ids = permutation(random, total);
  auto next = ids.begin();
  for (const auto& heads : shape.lengths) {
    int32_t most = 0;
    for (int32_t length : heads) most = std::max(most, pages_of(length));
    // One head may take every spare page.
    const int32_t max_pages = most + shape.spare_pages + 1;
    Array table(DType::kI32, {static_cast<int64_t>(heads.size()), max_pages});
    for (size_t h = 0; h < heads.size(); ++h) {
      const int64_t row = static_cast<int64_t>(h) * max_pages;
      for (int32_t p = 0; p < max_pages; ++p) table.set(row + p, p < pages_of(heads[h]) ? *next++ : 1 << 30);
    }
    tables.push_back(table);
    lengths.push_back(Array::integers(heads));
    // Room for every page of the sequence, for they may all come back.
    Array stack(DType::kI32, {static_cast<int64_t>(heads.size()) * max_pages + shape.spare_pages});
    for (int32_t p = 0; p < shape.spare_pages; ++p) stack.set(p, *next++);
    stacks.push_back(stack);
    counts.push_back(Array::integers({shape.spare_pages, shape.spare_pages}));
  }
}

int32_t CacheCase::length(int64_t sequence, int32_t head) const {
  return static_cast<int32_t>(lengths[static_cast<size_t>(sequence)].get(head));
}

int32_t CacheCase::longest() const {
  int32_t most = 0;
  for (int64_t s = 0; s < sequences(); ++s) {
    for (int32_t h = 0; h < kv_heads(); ++h) most = std::max(most, length(s, h));
  }
  return most;
}

int64_t CacheCase::slot(int64_t sequence, int32_t head, int32_t row) const {
  const double page = tables[static_cast<size_t>(sequence)].at({head, row / kPageRows});
  return static_cast<int64_t>(page) * kPageRows + row % kPageRows;
}

std::vector<double> CacheCase::key(int64_t sequence, int32_t head, int32_t row) const {
  return row_of(k, slot(sequence, head, row));
}

std::vector<double> CacheCase::value(int64_t sequence, int32_t head, int32_t row) const {
  return row_of(v, slot(sequence, head, row));
}

int32_t CacheCase::position(int64_t sequence, int32_t head, int32_t row) const {
  return static_cast<int32_t>(positions.get(slot(sequence, head, row)));
}

std::vector<int32_t> CacheCase::stack(int64_t sequence) const {
  const auto s = static_cast<size_t>(sequence);
  std::vector<int32_t> out;
  for (int64_t i = 0; i < static_cast<int64_t>(counts[s].get(0)); ++i) {
    out.push_back(static_cast<int32_t>(stacks[s].get(i)));
  }
  return out;
}

PlacedCache place(Placement& placement, CacheCase& cache, CacheUse use) {
  const auto put = [&](Array& array) {
    return use == CacheUse::kRead ? placement.in(array) : placement.out(array);
  };
  PlacedCache placed;
  placed.pages = {put(cache.k), put(cache.v), put(cache.positions)};
  std::vector<CacheView> views;
  for (size_t s = 0; s < cache.tables.size(); ++s) {
    CacheView view{};
    view.page_table = put(cache.tables[s]).as<int32_t>();
    view.length = put(cache.lengths[s]).as<int32_t>();
    view.free_pages = put(cache.stacks[s]).as<int32_t>();
    view.free_count = put(cache.counts[s]).as<int32_t>();
    view.max_pages = static_cast<int32_t>(cache.tables[s].shape[1]);
    view.row_begin = cache.row_begin.empty() ? 0 : cache.row_begin[s];
    view.row_count = cache.row_count.empty() ? 0 : cache.row_count[s];
    views.push_back(view);
  }
  placed.views =
      static_cast<const CacheView*>(placement.in_bytes(views.data(), views.size() * sizeof(CacheView)));
  return placed;
}

void expect_same(const CacheCase& actual, const CacheCase& expected) {
  for (int64_t s = 0; s < expected.sequences(); ++s) {
    const auto at = static_cast<size_t>(s);
    ASSERT_EQ(actual.lengths[at].payload(), expected.lengths[at].payload()) << "lengths of sequence " << s;
    ASSERT_EQ(actual.counts[at].payload(), expected.counts[at].payload()) << "stack marks of sequence " << s;
    ASSERT_EQ(actual.stack(s), expected.stack(s)) << "stack of sequence " << s;
    for (int32_t h = 0; h < expected.kv_heads(); ++h) {
      for (int32_t r = 0; r < expected.length(s, h); ++r) {
        ASSERT_EQ(actual.slot(s, h, r), expected.slot(s, h, r))
            << "sequence " << s << " head " << h << " row " << r;
        ASSERT_EQ(actual.position(s, h, r), expected.position(s, h, r)) << "row " << r;
        ASSERT_EQ(actual.key(s, h, r), expected.key(s, h, r)) << "key of row " << r;
        ASSERT_EQ(actual.value(s, h, r), expected.value(s, h, r)) << "value of row " << r;
      }
    }
  }
}

}  // namespace longhaul::testing
