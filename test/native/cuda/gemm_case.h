// One product for the kernels themselves, in device memory: operands with gaps, NaN wherever nothing may be
// read.
#pragma once

#include <cstdint>
#include <vector>

#include "cuda/gemm_problem.h"

namespace longhaul::testing {

struct GemmShape {
  int rows, outputs, cols;
};

struct GemmTypes {
  DType x = DType::kBf16;
  DType weight = DType::kBf16;
  DType out = DType::kF32;
};

class GemmCase {
 public:
  GemmCase(GemmShape shape, GemmTypes types, uint32_t seed);

  bool bias = false;
  bool accumulate = false;
  int x_offset = 0;  // elements by which x misses its alignment to 16 bytes
  int out_gap = 8;   // elements between the rows of out
  int first_row = 0;
  int rows;  // of the shape's, from first_row on

  // Runs `launch` and gives the results, row by row. Expects the gaps of out as they were.
  template <class Launch>
  std::vector<float> run(Launch launch) const {
    return finish(place(), launch);
  }

  // Expects the result of a run to be x * weight^T (+ bias) (+ what was there).
  void expect_right(const std::vector<float>& result) const;

 private:
  struct Placed {
    cuda::GemmProblem problem;
    void* memory[4];
    size_t out_bytes;
  };
  Placed place() const;
  std::vector<float> fetch(const Placed& placed) const;
  template <class Launch>
  std::vector<float> finish(const Placed& placed, Launch launch) const {
    last_error_ = launch(placed.problem);
    return fetch(placed);
  }
  float before(int row, int output) const;

  GemmShape shape_;
  GemmTypes types_;
  std::vector<float> x_, weight_, bias_, out_;  // as their types hold them, dense
  mutable cudaError_t last_error_ = cudaSuccess;
};

}  // namespace longhaul::testing
