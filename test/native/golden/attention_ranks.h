// Kind `attention` over several ranks.
#pragma once

#include <vector>

#include "kinds.h"
#include "parallel/sequence_attention.h"

namespace longhaul::golden {

// A packed batch in f32.
struct AttentionInputs {
  SequenceShape shape;
  std::vector<int32_t> bounds;
  std::vector<float> q, k, v;
};

// Attention by Ulysses, a ring and a zigzag ring over 2, 4 and 8 ranks, which are threads here, against one
// rank: the limits `*_vs_single_rank` of the case.
Status compare_ranks(Backend& backend, const AttentionInputs& inputs, CaseReport& report);

}  // namespace longhaul::golden
