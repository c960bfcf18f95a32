// The model shapes that ops are measured at.
#pragma once

#include <cstdint>
#include <vector>

namespace longhaul::bench {

struct ModelShape {
  const char* name;
  int64_t hidden;
  int64_t ff;
  int64_t heads;
  int64_t kv_heads;
  int64_t dim;
  int64_t vocab;
  bool qkv_bias;
  bool large;  // measured on GPUs, and where it is asked for

  int64_t q_rows() const { return heads * dim; }
  int64_t qkv_rows() const { return (heads + 2 * kv_heads) * dim; }
};

// Smallest first.
const std::vector<ModelShape>& model_shapes();

}  // namespace longhaul::bench
