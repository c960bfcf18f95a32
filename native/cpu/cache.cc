// Rows into and out of paged caches. Pages change hands on the calling thread, in one order; rows move in
// parallel.
#include <algorithm>
#include <cstring>
#include <string>

#include "cpu/backend.h"
#include "cpu/cache_rows.h"
#include "cpu/ops.h"

namespace longhaul::cpu {
namespace {

// New rows of one sequence that one task writes.
constexpr int32_t kTaskRows = 16;

// Gives the pages behind the first `length` rows back, the lowest index first.
void shorten(const CacheView& view, int32_t head, int32_t length) {
  const int32_t* table = page_table_of(view, head);
  for (int32_t p = pages_of(length); p < pages_of(view.length[head]); ++p) {
    view.free_pages[view.free_count[0]++] = table[p];
  }
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
    const int32_t end = pages_of(view.length[h] + view.row_count);
    int32_t* table = view.page_table + static_cast<int64_t>(h) * view.max_pages;
    for (int32_t p = pages_of(view.length[h]); p < end; ++p) table[p] = view.free_pages[--view.free_count[0]];
  }
  view.free_count[1] = std::min(view.free_count[1], view.free_count[0]);
  return {};
}

int64_t append_tasks(const CacheView& view) {
  return (view.row_count + kTaskRows - 1) / kTaskRows;
}

// Writes rows [begin, end) of the sequence's new rows behind the rows held. Lengths have not grown yet.
void write_rows(const Kernels& kernels, const AppendArgs& a, const CacheView& view, int32_t begin,
                int32_t end) {
  const auto kv_heads = static_cast<int32_t>(a.k.shape[1]);
  const auto dim = static_cast<int>(a.k.shape[2]);
  const int64_t row_bytes = page_bytes(a.pages.k) / kPageRows;
  for (int32_t i = begin; i < end; ++i) {
    const int64_t from = view.row_begin + i;
    const float* cos = a.cos ? a.cos.as<float>() + from * a.cos.stride[0] : nullptr;
    const float* sin = a.cos ? a.sin.as<float>() + from * a.sin.stride[0] : nullptr;
    for (int32_t h = 0; h < kv_heads; ++h) {
      const int32_t row = view.length[h] + i;
      const int32_t page = page_table_of(view, h)[row / kPageRows];
      const int64_t offset = row % kPageRows * row_bytes;
      const Element to = element_of(a.pages.k.dtype);
      kernels.attention->store_rotated(row_at(a.k, from, h), element_of(a.k.dtype), cos, sin, dim,
                                       page_at(a.pages.k, page) + offset, to);
      kernels.attention->store_rotated(row_at(a.v, from, h), element_of(a.v.dtype), nullptr, nullptr, dim,
                                       page_at(a.pages.v, page) + offset, to);
      a.pages.positions.as<int32_t>()[int64_t{page} * kPageRows + row % kPageRows] =
          a.positions.as<int32_t>()[from];
    }
  }
}

// Moves the kept rows of one head to the front. A row never moves back, so going from the front overwrites
// nothing that is still needed. Neighbours that stay neighbours inside their pages move together.
void compact_head(const CompactArgs& a, int32_t head) {
  const auto* kept = reinterpret_cast<const int32_t*>(row_at(a.kept, head));
  const int32_t count = a.kept_count.as<int32_t>()[head];
  const int32_t* table = page_table_of(*a.view, head);
  const int64_t row_bytes = page_bytes(a.pages.k) / kPageRows;
  auto* positions = a.pages.positions.as<int32_t>();
  int32_t to = 0;
  while (to < count && kept[to] == to) ++to;
  while (to < count) {
    const int32_t from = kept[to];
    const int32_t from_row = from % kPageRows;
    const int32_t to_row = to % kPageRows;
    const int32_t limit = std::min(kPageRows - std::max(from_row, to_row), count - to);
    int32_t run = 1;
    while (run < limit && kept[to + run] == from + run) ++run;
    const int32_t from_page = table[from / kPageRows];
    const int32_t to_page = table[to / kPageRows];
    for (const Tensor& pages : {a.pages.k, a.pages.v}) {
      std::memmove(page_at(pages, to_page) + to_row * row_bytes,
                   page_at(pages, from_page) + from_row * row_bytes, static_cast<size_t>(run * row_bytes));
    }
    std::memmove(positions + int64_t{to_page} * kPageRows + to_row,
                 positions + int64_t{from_page} * kPageRows + from_row,
                 static_cast<size_t>(run) * sizeof(int32_t));
    to += run;
  }
}

}  // namespace

Status append(Stream& stream, const AppendArgs& a) {
  CpuStream& cpu = cpu_stream(stream);
  const auto kv_heads = static_cast<int32_t>(a.k.shape[1]);
  // Sequences in front of one that has no room are appended all the same.
  Status status;
  int64_t sequences = 0;
  int64_t tasks = 0;
  for (; sequences < a.sequences; ++sequences) {
    status = take_pages(a.views[sequences], sequences, kv_heads);
    if (!status.ok()) break;
    tasks += append_tasks(a.views[sequences]);
  }
  cpu.parallel_for(tasks, [&](int64_t task, int) {
    const CacheView* view = a.views;
    for (; task >= append_tasks(*view); ++view) task -= append_tasks(*view);
    const auto begin = static_cast<int32_t>(task) * kTaskRows;
    write_rows(cpu.kernels(), a, *view, begin, std::min(begin + kTaskRows, view->row_count));
  });
  for (int64_t s = 0; s < sequences; ++s) {
    for (int32_t h = 0; h < kv_heads; ++h) a.views[s].length[h] += a.views[s].row_count;
  }
  return status;
}

Status truncate(Stream&, const TruncateArgs& a) {
  for (int64_t s = 0; s < a.sequences; ++s) {
    const CacheView& view = a.views[s];
    for (int32_t h = 0; h < a.kv_heads; ++h) shorten(view, h, std::max(view.length[h] - a.drop, 0));
  }
  return {};
}

Status compact(Stream& stream, const CompactArgs& a) {
  cpu_stream(stream).parallel_for(a.kv_heads,
                                  [&](int64_t head, int) { compact_head(a, static_cast<int32_t>(head)); });
  for (int32_t h = 0; h < a.kv_heads; ++h) shorten(*a.view, h, a.kept_count.as<int32_t>()[h]);
  return {};
}

}  // namespace longhaul::cpu
