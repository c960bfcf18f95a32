// How rows are divided, and that spans show each query exactly the keys of its own sequence's past.
#include "parallel/row_split.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <random>

namespace longhaul {
namespace {

constexpr RowScheme kSchemes[] = {RowScheme::kContiguous, RowScheme::kZigzag};

std::vector<int32_t> bounds_of(const std::vector<int32_t>& lengths) {
  std::vector<int32_t> bounds = {0};
  for (int32_t length : lengths) bounds.push_back(bounds.back() + length);
  return bounds;
}

const std::vector<std::vector<int32_t>> kBatches = {{64},
                                                    {61},
                                                    {1},
                                                    {0, 3, 0},
                                                    {1, 1, 1, 1, 1},
                                                    {17, 40, 5, 66},
                                                    {3, 100, 1, 1, 29, 16},
                                                    {7, 7, 7, 7, 7, 7, 7}};

RowSplit split_of(const std::vector<int32_t>& lengths, int ranks, RowScheme scheme) {
  return RowSplit::make(bounds_of(lengths), ranks, scheme).value();
}

// The sequence and the position of each row of a batch.
std::vector<std::pair<int32_t, int32_t>> places_of(const std::vector<int32_t>& lengths) {
  std::vector<std::pair<int32_t, int32_t>> places;
  for (size_t s = 0; s < lengths.size(); ++s) {
    for (int32_t i = 0; i < lengths[s]; ++i) places.emplace_back(static_cast<int32_t>(s), i);
  }
  return places;
}

TEST(RowSplit, EveryRowHasOneRankAndItsPosition) {
  for (const auto& lengths : kBatches) {
    const auto places = places_of(lengths);
    for (RowScheme scheme : kSchemes) {
      for (int ranks : {1, 2, 3, 4, 8}) {
        const RowSplit split = split_of(lengths, ranks, scheme);
        const std::vector<int32_t> gathered = split.gathered_rows();
        std::vector<int32_t> all;
        for (int r = 0; r < ranks; ++r) {
          const std::vector<int32_t> rows = split.packed_rows(r);
          const std::vector<int32_t> positions = split.positions(r);
          ASSERT_EQ(static_cast<int64_t>(rows.size()), split.rows(r));
          ASSERT_EQ(positions.size(), rows.size());
          for (size_t i = 0; i < rows.size(); ++i) {
            ASSERT_EQ(positions[i], places[static_cast<size_t>(rows[i])].second);
          }
          all.insert(all.end(), rows.begin(), rows.end());
        }
        ASSERT_EQ(all.size(), places.size());
        for (size_t row = 0; row < places.size(); ++row) {
          ASSERT_EQ(all[static_cast<size_t>(gathered[row])], static_cast<int32_t>(row));
        }
      }
    }
  }
}

// What a list shows, counted: (query row, key row) -> how often.
using Shown = std::map<std::pair<int64_t, int64_t>, int>;

void show(const SpanList& list, Shown& shown, std::vector<int>& uses, int64_t keys) {
  int32_t most = 0;
  int64_t pages = 0;
  for (const AttentionSpan& span : list.spans) {
    ASSERT_LE(span.k_begin + span.k_count, keys);
    most = std::max(most, span.k_count);
    pages += (span.k_count + 15) / 16;
    for (int32_t i = 0; i < span.q_count; ++i) {
      ++uses[static_cast<size_t>(span.q_begin + i)];
      for (int32_t j = 0; j < span.k_count && j <= span.offset + i; ++j) {
        ++shown[{span.q_begin + i, span.k_begin + j}];
      }
    }
  }
  ASSERT_EQ(list.max_keys, most);
  ASSERT_EQ(list.key_pages, pages);
  ASSERT_EQ(list.pairs(), static_cast<int64_t>(shown.size()));
}

void expect_past(const SpanList& list, const std::vector<int32_t>& queries, const std::vector<int32_t>& keys,
                 const std::vector<std::pair<int32_t, int32_t>>& places) {
  Shown shown;
  std::vector<int> uses(queries.size());
  show(list, shown, uses, static_cast<int64_t>(keys.size()));
  for (size_t i = 0; i < queries.size(); ++i) {
    ASSERT_LE(uses[i], 1) << "a query in two spans";
    for (size_t j = 0; j < keys.size(); ++j) {
      const auto [q_sequence, q] = places[static_cast<size_t>(queries[i])];
      const auto [k_sequence, k] = places[static_cast<size_t>(keys[j])];
      const auto found = shown.find({static_cast<int64_t>(i), static_cast<int64_t>(j)});
      ASSERT_EQ(found == shown.end() ? 0 : found->second, q_sequence == k_sequence && k <= q ? 1 : 0)
          << "query " << queries[i] << ", key " << keys[j];
    }
  }
}

TEST(RowSplit, SpansShowEveryQueryItsPast) {
  for (const auto& lengths : kBatches) {
    const auto places = places_of(lengths);
    std::vector<int32_t> all(places.size());
    std::iota(all.begin(), all.end(), 0);
    for (RowScheme scheme : kSchemes) {
      for (int ranks : {1, 2, 3, 4, 8}) {
        const RowSplit split = split_of(lengths, ranks, scheme);
        for (int q = 0; q < ranks; ++q) {
          for (int k = 0; k < ranks; ++k) {
            expect_past(split.spans(q, k), split.packed_rows(q), split.packed_rows(k), places);
          }
          expect_past(split.spans_of_all(q), split.packed_rows(q), all, places);
        }
      }
    }
  }
}

// Work that a rank does on each place's keys, in pairs of a query and a key.
TEST(RowSplit, ZigzagSharesCausalWorkEvenlyInEveryStep) {
  for (int ranks : {2, 4, 8}) {
    const RowSplit split = split_of({16 * ranks, 32 * ranks, 2 * ranks}, ranks, RowScheme::kZigzag);
    for (int step = 0; step < ranks; ++step) {
      const int64_t first = split.spans(0, (ranks - step) % ranks).pairs();
      for (int r = 0; r < ranks; ++r) {
        EXPECT_EQ(split.spans(r, (r - step + ranks) % ranks).pairs(), first)
            << "rank " << r << " step " << step;
      }
    }
  }
}

// Chunks of one row or none do not all go to the same rank.
TEST(RowSplit, ZigzagHoldsRowsEvenlyWhateverTheLengths) {
  std::mt19937_64 random(7);
  for (int ranks : {2, 4, 8}) {
    for (int round = 0; round < 20; ++round) {
      std::vector<int32_t> lengths(200);
      for (int32_t& length : lengths) length = static_cast<int32_t>(random() % (round % 2 == 0 ? 3 : 40));
      const RowSplit split = split_of(lengths, ranks, RowScheme::kZigzag);
      int64_t least = split.total();
      int64_t most = 0;
      for (int r = 0; r < ranks; ++r) {
        least = std::min(least, split.rows(r));
        most = std::max(most, split.rows(r));
      }
      EXPECT_LE(most - least, 2) << ranks << " ranks";
    }
  }
}

TEST(RowSplit, BadBoundsAreRefused) {
  for (const std::vector<int32_t>& bounds : {std::vector<int32_t>{}, {1, 5}, {0, 5, 3}}) {
    EXPECT_EQ(RowSplit::make(bounds, 2, RowScheme::kZigzag).status().code(), Code::kInvalidArgument);
  }
  EXPECT_EQ(RowSplit::make(std::vector<int32_t>{0, 5}, 0, RowScheme::kZigzag).status().code(),
            Code::kInvalidArgument);
}

}  // namespace
}  // namespace longhaul
