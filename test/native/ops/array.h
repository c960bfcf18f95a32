// Host arrays of the op tests: any dtype, optional gaps between rows, values seen as doubles.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "core/tensor.h"

namespace longhaul::testing {

using Random = std::mt19937_64;

class Array {
 public:
  Array() = default;

  // Zeroed. `row_gap` elements lie between the rows of the last dimension, as between slices of a wider tensor.
  Array(DType dtype, std::vector<int64_t> shape, int64_t row_gap = 0);

  static Array normal(Random& random, DType dtype, std::vector<int64_t> shape, int64_t row_gap = 0);
  static Array integers(std::vector<int32_t> values);  // [n] i32
  static Array floats(std::vector<float> values);      // [n] f32

  explicit operator bool() const { return !shape.empty(); }
  int64_t size() const;

  // Element i in row-major order, whatever the gaps.
  double get(int64_t i) const;
  void set(int64_t i, double value);

  // As get, by coordinates.
  double at(std::initializer_list<int64_t> coordinates) const;

  // All elements as their bits, without the gaps.
  std::vector<char> payload() const;

  // A view of this array's bytes placed at `data`.
  Tensor view(void* data) const;

  // Byte offset of element i.
  size_t offset(int64_t i) const;

  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  int64_t row_stride = 0;  // elements from one row of the last dimension to the next
  std::vector<char> bytes;
};

// A random permutation of 0 .. count - 1.
std::vector<int32_t> permutation(Random& random, int32_t count);

}  // namespace longhaul::testing
