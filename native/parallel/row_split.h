// How the rows of a packed batch are divided among ranks, and what each rank's queries see of another rank's
// keys.
//
// A batch packs sequences one behind the other: bounds (cu_seqlens) = 0, end of the first, ..., number of rows.
// Positions start at 0 in each sequence. No row is ever added: chunks that do not divide differ by one row.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/parallel_ops.h"
#include "core/status.h"

namespace longhaul {

enum class RowScheme : uint8_t {
  // Rank r holds rows [r * T / P, (r + 1) * T / P) of the batch, whatever sequences they belong to.
  kContiguous,
  // Each sequence is cut into 2P chunks; chunks c and 2P - 1 - c go to one rank, so that causal work is even.
  // Pair c
  // is rank c's, unless chunks differ in size: then larger pairs go to the ranks that hold fewer rows so far.
  kZigzag,
};

// Rows of one sequence that follow one another, on one rank.
struct RowSegment {
  int32_t sequence = 0;
  int32_t position = 0;  // of the first row, in its sequence
  int32_t row = 0;       // of the first row, in the packed batch
  int32_t count = 0;
};

// One call of dense_attention: its spans, and the bounds that go with them.
struct SpanList {
  std::vector<AttentionSpan> spans;
  int32_t max_keys = 0;
  int64_t key_pages = 0;

  void add(const AttentionSpan& span);
  // (query, key) pairs that are multiplied: the work of one head.
  int64_t pairs() const;
};

class RowSplit {
 public:
  // kInvalidArgument when bounds do not ascend from 0, or there is no rank.
  static Result<RowSplit> make(std::span<const int32_t> bounds, int ranks, RowScheme scheme);

  int ranks() const { return static_cast<int>(segments_.size()); }
  int64_t total() const { return total_; }
  // A rank's rows, in the order in which it holds them: by sequence, then by position.
  const std::vector<RowSegment>& segments(int rank) const { return segments_[static_cast<size_t>(rank)]; }
  int64_t rows(int rank) const;
  // For each of these rows its place in the batch, and its position in its sequence.
  std::vector<int32_t> packed_rows(int rank) const;
  std::vector<int32_t> positions(int rank) const;
  // For each row of the batch its place behind one another of all ranks' rows: undoes packed_rows.
  std::vector<int32_t> gathered_rows() const;

  // What the queries of one rank see of the keys of another.
  SpanList spans(int query_rank, int key_rank) const;
  // And of the whole batch, in packed order.
  SpanList spans_of_all(int query_rank) const;

 private:
  std::vector<int32_t> bounds_;
  std::vector<std::vector<RowSegment>> segments_;  // [rank]
  int64_t total_ = 0;
};

// Part `index` of `parts` of [0, total), as even as possible: where it begins, and, with index + 1, where it
// ends.
constexpr int64_t even_edge(int64_t total, int64_t parts, int64_t index) {
  return total * index / parts;
}

}  // namespace longhaul
