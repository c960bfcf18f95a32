// Which heads each rank of a Ulysses group computes.
//
// The rule: a rank always has a run of query heads that share its KV heads evenly, so that its attention is
// grouped like the model's.
// - KV heads >= ranks: rank r gets KV heads [r * K / P, (r + 1) * K / P), rounded down, with all their query
// heads.
//   Where P does not divide K some ranks have one KV head more.
// - KV heads < ranks: rank r gets KV head r * K / P, rounded down, and the ranks that have the same one divide
// its
//   query heads in the same way. The KV head is sent to each of them.
// Refused: more ranks of one KV head than it has query heads, because some would have nothing to do.
// Where K divides P or P divides K, and P divides the number of heads, this is the usual rule (specs of
// Ulysses, arXiv 2309.14509, and of its GQA variants), and no rank has more than another.
#pragma once

#include <cstdint>
#include <vector>

#include "core/parallel_ops.h"
#include "core/status.h"

namespace longhaul {

struct HeadRange {
  int32_t first = 0;
  int32_t count = 0;
};

struct HeadSplit {
  std::vector<HeadRange> query;  // of each rank
  std::vector<HeadRange> kv;     // of each rank

  // kInvalidArgument where the rule refuses.
  static Result<HeadSplit> make(int32_t heads, int32_t kv_heads, int ranks);
};

// The parts of pack_heads and unpack_heads: part r holds the heads of ranges[r].
std::vector<HeadSlot> slots_of(const std::vector<HeadRange>& ranges);

}  // namespace longhaul
