// Where kept rows stand among themselves: by sorting words of a score's complement and the row's number, which
// are all different, so that the order is that of select.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "cpu/backend.h"
#include "cpu/cache_rows.h"
#include "cpu/ops.h"
#include "cpu/radix_select.h"

namespace longhaul::cpu {
namespace {

// The kept rows of heads [first, last), from `words` on.
void rank(const RankRowsArgs& a, int32_t first, int32_t last, uint64_t* words) {
  const auto* counts = a.kept_count.as<int32_t>();
  uint64_t* end = words;
  for (int32_t h = first; h < last; ++h) {
    const auto* kept = reinterpret_cast<const int32_t*>(row_at(a.kept, h));
    const auto* scores = reinterpret_cast<const float*>(row_at(a.scores, h));
    const uint64_t begin = static_cast<uint64_t>(h) * static_cast<uint64_t>(a.kept.shape[1]);
    for (int32_t i = 0; i < counts[h]; ++i) {
      *end++ = uint64_t{~order_key(scores[kept[i]])} << 32 | (begin + static_cast<uint64_t>(i));
    }
  }
  std::sort(words, end);
  for (const uint64_t* word = words; word < end; ++word) {
    const auto number = static_cast<int64_t>(*word & UINT32_MAX);
    const int64_t head = number / a.kept.shape[1];
    const auto* kept = reinterpret_cast<const int32_t*>(row_at(a.kept, head));
    float& best = reinterpret_cast<float*>(row_at(a.best, head))[kept[number % a.kept.shape[1]]];
    best = std::fmax(best, -static_cast<float>(word - words));
  }
}

}  // namespace

size_t rank_rows_workspace(const RankRowsArgs& a) {
  return static_cast<size_t>(a.kv_heads * a.kept.shape[1]) * sizeof(uint64_t);
}

Status rank_rows(Stream& stream, const RankRowsArgs& a, Workspace workspace) {
  CpuStream& cpu = cpu_stream(stream);
  auto* words = static_cast<uint64_t*>(workspace.data);
  if (!a.accumulate) {
    for (int32_t h = 0; h < a.kv_heads; ++h) {
      std::fill_n(reinterpret_cast<float*>(row_at(a.best, h)), a.view->length[h],
                  std::numeric_limits<float>::quiet_NaN());
    }
  }
  if (a.level == SelectLevel::kPair) {
    rank(a, 0, a.kv_heads, words);
  } else {
    cpu.parallel_for(a.kv_heads, [&](int64_t head, int) {
      const auto h = static_cast<int32_t>(head);
      rank(a, h, h + 1, words + head * a.kept.shape[1]);
    });
  }
  return {};
}

}  // namespace longhaul::cpu
