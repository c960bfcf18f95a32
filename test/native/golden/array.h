// Stored goldens and computed results in one form, host memory and double, so that comparing knows one type.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/backend.h"
#include "core/status.h"
#include "core/tensor.h"

namespace longhaul::golden {

struct Array {
  std::vector<int64_t> shape;  // outermost first
  std::vector<double> values;  // row-major

  static Array of(std::vector<int64_t> shape, std::vector<double> values);
  static Array of(std::span<const int32_t> values);  // [n]

  // Appends rows along the outermost dimension; an array without a shape takes the other's.
  void append(const Array& rows);
  // Rows [begin, begin + count) of the outermost dimension.
  Array rows(int64_t begin, int64_t count) const;
};

std::string describe(const std::vector<int64_t>& shape);

// A dense tensor in host memory.
Result<Array> to_array(const Tensor& host);
// A dense tensor in device memory, after all queued work.
Result<Array> download(Backend& backend, Stream& stream, const Tensor& device);

}  // namespace longhaul::golden
