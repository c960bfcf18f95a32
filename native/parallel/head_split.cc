#include "parallel/head_split.h"

#include <string>

namespace longhaul {
namespace {

// Part `index` of [0, total) in `parts`.
HeadRange part_of(int32_t total, int32_t parts, int32_t index) {
  const auto edge = [&](int64_t i) { return static_cast<int32_t>(i * total / parts); };
  return {edge(index), edge(index + 1) - edge(index)};
}

}  // namespace

Result<HeadSplit> HeadSplit::make(int32_t heads, int32_t kv_heads, int ranks) {
  if (ranks < 1 || kv_heads < 1 || heads < 1 || heads % kv_heads != 0) {
    return invalid_argument("head split: " + std::to_string(kv_heads) + " KV heads must divide " +
                            std::to_string(heads) + " heads");
  }
  const int32_t group = heads / kv_heads;
  HeadSplit split;
  for (int32_t r = 0; r < ranks; ++r) {
    if (kv_heads >= ranks) {
      const HeadRange kv = part_of(kv_heads, ranks, r);
      split.kv.push_back(kv);
      split.query.push_back({kv.first * group, kv.count * group});
      continue;
    }
    const auto head_of = [&](int64_t rank) { return static_cast<int32_t>(rank * kv_heads / ranks); };
    const int32_t kv = head_of(r);
    int32_t first = r;
    int32_t end = r + 1;
    while (first > 0 && head_of(first - 1) == kv) --first;
    while (end < ranks && head_of(end) == kv) ++end;
    const HeadRange query = part_of(group, end - first, r - first);
    if (end - first > group) {
      return invalid_argument("head split: " + std::to_string(end - first) + " of " + std::to_string(ranks) +
                              " ranks share a KV head of " + std::to_string(group) +
                              " query heads: use at most " + std::to_string(heads) +
                              " ranks in a Ulysses group, and a ring for the others");
    }
    split.kv.push_back({kv, 1});
    split.query.push_back({kv * group + query.first, query.count});
  }
  return split;
}

std::vector<HeadSlot> slots_of(const std::vector<HeadRange>& ranges) {
  std::vector<HeadSlot> slots;
  for (const HeadRange& range : ranges) {
    const auto first = static_cast<int32_t>(slots.size());
    for (int32_t h = 0; h < range.count; ++h) slots.push_back({range.first + h, first, range.count});
  }
  return slots;
}

}  // namespace longhaul
