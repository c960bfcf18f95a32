#include <algorithm>
#include <cstring>
#include <string>

#include "reference/reference.h"
#include "reference/rows.h"

namespace longhaul::reference {
namespace {

// Gives pages [first, last) of a head back, the lowest index first.
void push_pages(const CacheView& view, int32_t head, int32_t first, int32_t last) {
  const int32_t* table = view.page_table + static_cast<int64_t>(head) * view.max_pages;
  for (int32_t p = first; p < last; ++p) view.free_pages[view.free_count[0]++] = table[p];
}

void shorten(const CacheView& view, int32_t head, int32_t length) {
  push_pages(view, head, pages_of(length), pages_of(view.length[head]));
  view.length[head] = length;
}

// Pages for row_count more rows of every head; nothing changes when there are not enough.
Status take_pages(const CacheView& view, int64_t sequence, int32_t kv_heads) {
  int64_t needed = 0;
  for (int32_t h = 0; h < kv_heads; ++h) {
    const int32_t pages = pages_of(view.length[h] + view.row_count);
    if (pages > view.max_pages) {
      return internal_error("append: page table of sequence " + std::to_string(sequence) + " is full");
    }
    needed += pages - pages_of(view.length[h]);
  }
  if (needed > view.free_count[0]) {
    return internal_error("append: page reservation exhausted: sequence " + std::to_string(sequence) +
                          " needs " + std::to_string(needed) + " pages and has " +
                          std::to_string(view.free_count[0]));
  }
  for (int32_t h = 0; h < kv_heads; ++h) {
    const int32_t last = pages_of(view.length[h] + view.row_count);
    int32_t* table = view.page_table + static_cast<int64_t>(h) * view.max_pages;
    for (int32_t p = pages_of(view.length[h]); p < last; ++p) table[p] = view.free_pages[--view.free_count[0]];
  }
  view.free_count[1] = std::min(view.free_count[1], view.free_count[0]);
  return Status();
}

void copy_row(const Tensor& pages, int64_t from, int64_t to) {
  const auto bytes = static_cast<size_t>(pages.stride[1]) * size_of(pages.dtype);
  char* base = pages.as<char>();
  std::memcpy(base + static_cast<size_t>(to) * bytes, base + static_cast<size_t>(from) * bytes, bytes);
}

}  // namespace

Status append(Stream&, const AppendArgs& a) {
  const auto kv_heads = static_cast<int32_t>(a.k.shape[1]);
  const int64_t dim = a.k.shape[2];
  std::vector<double> row;
  for (int64_t s = 0; s < a.sequences; ++s) {
    const CacheView& view = a.views[s];
    LONGHAUL_TRY(take_pages(view, s, kv_heads));
    for (int32_t h = 0; h < kv_heads; ++h) {
      for (int32_t i = 0; i < view.row_count; ++i) {
        const int64_t from = view.row_begin + i;
        const int64_t slot = slot_of(view, h, view.length[h] + i);
        load_row(a.k, row_at(a.k, from, h), row);
        if (a.cos) rotate(row, a.cos, a.sin, from);
        store(a.pages.k.data, a.pages.k.dtype, slot * dim, dim, row.data());
        load_row(a.v, row_at(a.v, from, h), row);
        store(a.pages.v.data, a.pages.v.dtype, slot * dim, dim, row.data());
        a.pages.positions.as<int32_t>()[slot] = a.positions.as<int32_t>()[from];
      }
      view.length[h] += view.row_count;
    }
  }
  return Status();
}

Status truncate(Stream&, const TruncateArgs& a) {
  for (int64_t s = 0; s < a.sequences; ++s) {
    const CacheView& view = a.views[s];
    for (int32_t h = 0; h < a.kv_heads; ++h) shorten(view, h, std::max(view.length[h] - a.drop, 0));
  }
  return Status();
}

Status compact(Stream&, const CompactArgs& a) {
  const CacheView& view = *a.view;
  for (int32_t h = 0; h < a.kv_heads; ++h) {
    const int32_t* kept = a.kept.as<int32_t>() + row_at(a.kept, h);
    const int32_t count = a.kept_count.as<int32_t>()[h];
    // A row never moves back, so going from the front overwrites nothing that is still needed.
    for (int32_t i = 0; i < count; ++i) {
      if (kept[i] == i) continue;
      const int64_t from = slot_of(view, h, kept[i]);
      const int64_t to = slot_of(view, h, i);
      copy_row(a.pages.k, from, to);
      copy_row(a.pages.v, from, to);
      a.pages.positions.as<int32_t>()[to] = a.pages.positions.as<int32_t>()[from];
    }
    shorten(view, h, count);
  }
  return Status();
}

}  // namespace longhaul::reference
