// Reads test/fixtures/sampling: a safetensors file and the parameters in case.json.
#pragma once

#include <string>
#include <vector>

#include "core/ops.h"
#include "ops/array.h"

namespace longhaul::testing {

struct SamplingFixture {
  struct Case {
    SampleParams params;
    Array probabilities;           // [rows, vocab] f32
    std::vector<int32_t> support;  // by row
  };

  Array logits;            // [rows, vocab]
  Array previous_ids;      // [rows, n]
  Array tie_logits;        // [4, vocab]
  Array top_k_tie_logits;  // [1, vocab]
  Array top_k_tie_probabilities;
  std::vector<int32_t> greedy_ids;  // of tie_logits
  std::vector<Case> cases;
};

// Empty (no cases) when the files are not there or are not what is expected.
SamplingFixture read_sampling_fixture(const std::string& folder);

}  // namespace longhaul::testing
