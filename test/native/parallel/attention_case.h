// A packed batch with its attention, from a fixture or computed here in double by plain loops.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/status.h"

namespace longhaul::testing {

struct AttentionCase {
  std::string name;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t dim = 0;
  std::vector<int32_t> bounds;                                // cu_seqlens
  std::vector<float> q, k, v;                                 // [rows, heads or kv_heads, dim]
  std::vector<double> out, lse;                               // [rows, heads, dim], [rows, heads]
  double out_abs = 0, out_rel = 0, lse_abs = 0, lse_rel = 0;  // of out and lse, as the fixture says

  int64_t rows() const { return bounds.back(); }
  float scale() const;
};

// Case `parallel/attention_<name>` of the fixtures.
Result<AttentionCase> read_case(const std::string& name);
extern const std::vector<std::string> kFixtures;

// Sequences of these lengths with values of `dtype`, and their attention.
AttentionCase make_case(std::vector<int32_t> lengths, int64_t heads, int64_t kv_heads, int64_t dim,
                        DType dtype = DType::kF32);

}  // namespace longhaul::testing
