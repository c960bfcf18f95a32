#include "parallel/row_split.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "core/ops.h"

namespace longhaul {
namespace {

using RankSegments = std::vector<std::vector<RowSegment>>;

// The part of rows [begin, end) of the batch in each sequence.
void split_contiguous(const std::vector<int32_t>& bounds, RankSegments& segments) {
  const auto ranks = static_cast<int64_t>(segments.size());
  for (int64_t r = 0; r < ranks; ++r) {
    const auto begin = static_cast<int32_t>(even_edge(bounds.back(), ranks, r));
    const auto end = static_cast<int32_t>(even_edge(bounds.back(), ranks, r + 1));
    for (size_t s = 0; s + 1 < bounds.size(); ++s) {
      const int32_t from = std::max(begin, bounds[s]);
      const int32_t to = std::min(end, bounds[s + 1]);
      if (from < to) {
        segments[static_cast<size_t>(r)].push_back(
            {static_cast<int32_t>(s), from - bounds[s], from, to - from});
      }
    }
  }
}

void split_zigzag(const std::vector<int32_t>& bounds, RankSegments& segments) {
  const size_t ranks = segments.size();
  std::vector<int64_t> held(ranks);
  std::vector<size_t> pairs(ranks), takers(ranks);
  for (size_t s = 0; s + 1 < bounds.size(); ++s) {
    const int64_t length = bounds[s + 1] - bounds[s];
    const auto chunk = [&](size_t c) {
      const auto chunks = static_cast<int64_t>(2 * ranks);
      const int64_t begin = even_edge(length, chunks, static_cast<int64_t>(c));
      const int64_t end = even_edge(length, chunks, static_cast<int64_t>(c) + 1);
      return RowSegment{static_cast<int32_t>(s), static_cast<int32_t>(begin),
                        static_cast<int32_t>(bounds[s] + begin), static_cast<int32_t>(end - begin)};
    };
    const auto pair_rows = [&](size_t pair) { return chunk(pair).count + chunk(2 * ranks - 1 - pair).count; };
    std::iota(pairs.begin(), pairs.end(), size_t{0});
    std::iota(takers.begin(), takers.end(), size_t{0});
    std::ranges::stable_sort(pairs, [&](size_t a, size_t b) { return pair_rows(a) > pair_rows(b); });
    std::ranges::stable_sort(takers, [&](size_t a, size_t b) { return held[a] < held[b]; });
    for (size_t i = 0; i < ranks; ++i) {
      for (size_t c : {pairs[i], 2 * ranks - 1 - pairs[i]}) {
        if (chunk(c).count > 0) segments[takers[i]].push_back(chunk(c));
      }
      held[takers[i]] += pair_rows(pairs[i]);
    }
  }
}

template <class Value>
std::vector<int32_t> each_row(const std::vector<RowSegment>& segments, Value first_of) {
  std::vector<int32_t> values;
  for (const RowSegment& segment : segments) {
    for (int32_t i = 0; i < segment.count; ++i) values.push_back(first_of(segment) + i);
  }
  return values;
}

}  // namespace

void SpanList::add(const AttentionSpan& span) {
  spans.push_back(span);
  max_keys = std::max(max_keys, span.k_count);
  key_pages += (span.k_count + kPageRows - 1) / kPageRows;
}

int64_t SpanList::pairs() const {
  int64_t count = 0;
  for (const AttentionSpan& span : spans) {
    for (int64_t i = 0; i < span.q_count; ++i)
      count += std::clamp<int64_t>(span.offset + i + 1, 0, span.k_count);
  }
  return count;
}

Result<RowSplit> RowSplit::make(std::span<const int32_t> bounds, int ranks, RowScheme scheme) {
  if (bounds.empty() || bounds.front() != 0 || !std::ranges::is_sorted(bounds)) {
    return invalid_argument("row split: bounds of sequences must ascend from 0");
  }
  if (ranks < 1) return invalid_argument("row split: there must be a rank, got " + std::to_string(ranks));
  RowSplit split;
  split.bounds_.assign(bounds.begin(), bounds.end());
  split.segments_.resize(static_cast<size_t>(ranks));
  split.total_ = bounds.back();
  if (scheme == RowScheme::kZigzag) {
    split_zigzag(split.bounds_, split.segments_);
  } else {
    split_contiguous(split.bounds_, split.segments_);
  }
  return split;
}

int64_t RowSplit::rows(int rank) const {
  int64_t count = 0;
  for (const RowSegment& segment : segments(rank)) count += segment.count;
  return count;
}

std::vector<int32_t> RowSplit::packed_rows(int rank) const {
  return each_row(segments(rank), [](const RowSegment& s) { return s.row; });
}

std::vector<int32_t> RowSplit::positions(int rank) const {
  return each_row(segments(rank), [](const RowSegment& s) { return s.position; });
}

std::vector<int32_t> RowSplit::gathered_rows() const {
  std::vector<int32_t> place(static_cast<size_t>(total_));
  int32_t next = 0;
  for (int r = 0; r < ranks(); ++r) {
    for (int32_t row : packed_rows(r)) place[static_cast<size_t>(row)] = next++;
  }
  return place;
}

// A rank holds a sequence's rows in one run, in the order of positions, in one or two pieces. A query in front
// of the second piece sees of the first only; one behind the second's begin sees the first whole. Pieces of
// different ranks do not overlap, so what the rows of a segment see grows by one from row to row, or does not
// change.
SpanList RowSplit::spans(int query_rank, int key_rank) const {
  SpanList list;
  int32_t q_begin = 0;
  for (const RowSegment& query : segments(query_rank)) {
    int32_t k_begin = 0;
    int32_t k_row = 0;
    int32_t k_count = 0;
    int32_t offset = 0;
    for (const RowSegment& key : segments(key_rank)) {
      if (key.sequence == query.sequence && key.position < query.position + query.count) {
        if (k_count == 0) k_begin = k_row;
        offset = k_count + query.position - key.position;
        k_count += key.count;
      }
      k_row += key.count;
    }
    if (k_count > 0) list.add({q_begin, query.count, k_begin, k_count, offset});
    q_begin += query.count;
  }
  return list;
}

SpanList RowSplit::spans_of_all(int query_rank) const {
  SpanList list;
  int32_t q_begin = 0;
  for (const RowSegment& query : segments(query_rank)) {
    const int32_t k_begin = bounds_[static_cast<size_t>(query.sequence)];
    list.add({q_begin, query.count, k_begin, query.position + query.count, query.position});
    q_begin += query.count;
  }
  return list;
}

}  // namespace longhaul
