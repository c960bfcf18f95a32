// Chosen rows of one paged cache into another.
#include <algorithm>
#include <cstring>
#include <string>

#include "cpu/backend.h"
#include "cpu/cache_rows.h"
#include "cpu/ops.h"

namespace longhaul::cpu {
namespace {

// Pages for each head's new rows; nothing changes when there are not enough.
Status take_pages(const CacheView& target, const int32_t* counts, int32_t kv_heads) {
  int64_t needed = 0;
  for (int32_t h = 0; h < kv_heads; ++h) {
    const int32_t pages = pages_of(target.length[h] + counts[h]);
    if (pages > target.max_pages) return internal_error("copy_rows: page table of the target is full");
    needed += pages - pages_of(target.length[h]);
  }
  if (needed > target.free_count[0]) {
    return internal_error("copy_rows: page reservation exhausted: the target needs " + std::to_string(needed) +
                          " pages and has " + std::to_string(target.free_count[0]));
  }
  for (int32_t h = 0; h < kv_heads; ++h) {
    int32_t* table = target.page_table + static_cast<int64_t>(h) * target.max_pages;
    const int32_t end = pages_of(target.length[h] + counts[h]);
    for (int32_t p = pages_of(target.length[h]); p < end; ++p) {
      table[p] = target.free_pages[--target.free_count[0]];
    }
  }
  target.free_count[1] = std::min(target.free_count[1], target.free_count[0]);
  return {};
}

// Neighbours that stay neighbours inside their pages move together.
void copy_head(const CopyRowsArgs& a, int32_t head) {
  const auto* kept = reinterpret_cast<const int32_t*>(row_at(a.kept, head));
  const int32_t count = a.kept_count.as<int32_t>()[head];
  const int32_t held = a.target->length[head];
  const int32_t* source = page_table_of(*a.source, head);
  const int32_t* target = page_table_of(*a.target, head);
  const int64_t row_bytes = page_bytes(a.pages.k) / kPageRows;
  auto* positions = a.pages.positions.as<int32_t>();
  for (int32_t i = 0; i < count;) {
    const int32_t from_row = kept[i] % kPageRows;
    const int32_t to_row = (held + i) % kPageRows;
    const int32_t limit = std::min(kPageRows - std::max(from_row, to_row), count - i);
    int32_t run = 1;
    while (run < limit && kept[i + run] == kept[i] + run) ++run;
    const int32_t from_page = source[kept[i] / kPageRows];
    const int32_t to_page = target[(held + i) / kPageRows];
    for (const Tensor& pages : {a.pages.k, a.pages.v}) {
      std::memcpy(page_at(pages, to_page) + to_row * row_bytes,
                  page_at(pages, from_page) + from_row * row_bytes, static_cast<size_t>(run * row_bytes));
    }
    std::memcpy(positions + int64_t{to_page} * kPageRows + to_row,
                positions + int64_t{from_page} * kPageRows + from_row,
                static_cast<size_t>(run) * sizeof(int32_t));
    i += run;
  }
}

}  // namespace

Status copy_rows(Stream& stream, const CopyRowsArgs& a) {
  const auto* counts = a.kept_count.as<int32_t>();
  LONGHAUL_TRY(take_pages(*a.target, counts, a.kv_heads));
  cpu_stream(stream).parallel_for(a.kv_heads,
                                  [&](int64_t head, int) { copy_head(a, static_cast<int32_t>(head)); });
  for (int32_t h = 0; h < a.kv_heads; ++h) a.target->length[h] += counts[h];
  return {};
}

}  // namespace longhaul::cpu
