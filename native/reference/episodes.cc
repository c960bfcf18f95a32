#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "reference/reference.h"
#include "reference/rows.h"

namespace longhaul::reference {
namespace {

// Whether a score stands in front of another that comes later in (head, row).
bool in_front(float score, float later) {
  return std::isnan(score) ? std::isnan(later) : std::isnan(later) || score >= later;
}

}  // namespace

Status rank_rows(Stream&, const RankRowsArgs& a, Workspace) {
  const auto score = [&](int32_t h, int32_t i) {
    return a.scores.as<float>()[row_at(a.scores, h) + a.kept.as<int32_t>()[row_at(a.kept, h) + i]];
  };
  for (int32_t h = 0; h < a.kv_heads; ++h) {
    float* best = a.best.as<float>() + row_at(a.best, h);
    if (!a.accumulate) {
      for (int32_t r = 0; r < a.view->length[h]; ++r) best[r] = std::numeric_limits<float>::quiet_NaN();
    }
    for (int32_t i = 0; i < a.kept_count.as<int32_t>()[h]; ++i) {
      int64_t rank = 0;
      for (int32_t g = 0; g < a.kv_heads; ++g) {
        if (a.level == SelectLevel::kHead && g != h) continue;
        for (int32_t j = 0; j < a.kept_count.as<int32_t>()[g]; ++j) {
          if (g == h && j == i) continue;
          const bool earlier = g < h || (g == h && j < i);
          rank += earlier ? in_front(score(g, j), score(h, i)) : !in_front(score(h, i), score(g, j));
        }
      }
      float& value = best[a.kept.as<int32_t>()[row_at(a.kept, h) + i]];
      value = std::fmax(value, -static_cast<float>(rank));
    }
  }
  return Status();
}

Status copy_rows(Stream&, const CopyRowsArgs& a) {
  const CacheView& source = *a.source;
  const CacheView& target = *a.target;
  const auto* counts = a.kept_count.as<int32_t>();
  int64_t needed = 0;
  for (int32_t h = 0; h < a.kv_heads; ++h) {
    const int32_t pages = pages_of(target.length[h] + counts[h]);
    if (pages > target.max_pages) return internal_error("copy_rows: page table of the target is full");
    needed += pages - pages_of(target.length[h]);
  }
  if (needed > target.free_count[0]) {
    return internal_error("copy_rows: page reservation exhausted: the target needs " + std::to_string(needed) +
                          " pages and has " + std::to_string(target.free_count[0]));
  }
  for (int32_t h = 0; h < a.kv_heads; ++h) {
    const int32_t length = target.length[h];
    int32_t* table = target.page_table + static_cast<int64_t>(h) * target.max_pages;
    for (int32_t p = pages_of(length); p < pages_of(length + counts[h]); ++p) {
      table[p] = target.free_pages[--target.free_count[0]];
    }
    const int32_t* kept = a.kept.as<int32_t>() + row_at(a.kept, h);
    for (int32_t i = 0; i < counts[h]; ++i) {
      const int64_t from = slot_of(source, h, kept[i]);
      const int64_t to = slot_of(target, h, length + i);
      for (const Tensor& pages : {a.pages.k, a.pages.v}) {
        const auto bytes = static_cast<int64_t>(size_of(pages.dtype)) * pages.stride[1];
        std::memcpy(pages.as<char>() + to * bytes, pages.as<char>() + from * bytes, static_cast<size_t>(bytes));
      }
      a.pages.positions.as<int32_t>()[to] = a.pages.positions.as<int32_t>()[from];
    }
    target.length[h] += counts[h];
  }
  target.free_count[1] = std::min(target.free_count[1], target.free_count[0]);
  return Status();
}

}  // namespace longhaul::reference
