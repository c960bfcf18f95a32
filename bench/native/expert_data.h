// What the cases of expert ops have in common: how many experts there are, and which of them a row uses.
#pragma once

#include <algorithm>

#include "memory.h"

namespace longhaul::bench {

// A mixture of LoRA experts: as many as DynMoLE and MixLoRA have, two of them for a row.
constexpr int64_t kExperts = 8;
constexpr int64_t kExpertRank = 8;
constexpr int64_t kRowExperts = 2;

// Experts of which one of `rows` rows needs the matrices, when rows choose evenly.
inline int64_t experts_in_use(int64_t rows) {
  return std::min(kExperts, rows * kRowExperts);
}

// [rows, parts, kExperts] f32: kRowExperts of each row have equal weights, the others 0.
Result<Tensor> routed_weights(Memory& memory, int64_t rows, int64_t parts);

}  // namespace longhaul::bench
