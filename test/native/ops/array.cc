#include "ops/array.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace longhaul::testing {
namespace {

template <class T>
T read(const char* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

template <class T>
void write(char* at, T value) {
  std::memcpy(at, &value, sizeof(T));
}

}  // namespace

Array::Array(DType type, std::vector<int64_t> extents, int64_t row_gap)
    : dtype(type), shape(std::move(extents)) {
  row_stride = shape.back() + row_gap;
  const int64_t rows = shape.back() == 0 ? 0 : size() / shape.back();
  bytes.resize(static_cast<size_t>(rows * row_stride) * size_of(dtype));
}

Array Array::normal(Random& random, DType dtype, std::vector<int64_t> shape, int64_t row_gap) {
  Array array(dtype, std::move(shape), row_gap);
  std::normal_distribution<double> distribution;
  for (int64_t i = 0; i < array.size(); ++i) array.set(i, distribution(random));
  return array;
}

Array Array::integers(std::vector<int32_t> values) {
  Array array(DType::kI32, {static_cast<int64_t>(values.size())});
  for (size_t i = 0; i < values.size(); ++i) array.set(static_cast<int64_t>(i), values[i]);
  return array;
}

Array Array::floats(std::vector<float> values) {
  Array array(DType::kF32, {static_cast<int64_t>(values.size())});
  for (size_t i = 0; i < values.size(); ++i) array.set(static_cast<int64_t>(i), static_cast<double>(values[i]));
  return array;
}

int64_t Array::size() const {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

size_t Array::offset(int64_t i) const {
  const int64_t columns = shape.back();
  return static_cast<size_t>(i / columns * row_stride + i % columns) * size_of(dtype);
}

double Array::get(int64_t i) const {
  const char* at = bytes.data() + offset(i);
  switch (dtype) {
    case DType::kF32:
      return static_cast<double>(read<float>(at));
    case DType::kBf16:
      return static_cast<double>(to_f32(read<Bf16>(at)));
    case DType::kF16:
      return static_cast<double>(to_f32(read<F16>(at)));
    case DType::kF64:
      return read<double>(at);
    case DType::kI32:
      return read<int32_t>(at);
    case DType::kU32:
      return read<uint32_t>(at);
    case DType::kU8:
      return read<uint8_t>(at);
  }
  return 0;
}

void Array::set(int64_t i, double value) {
  char* at = bytes.data() + offset(i);
  switch (dtype) {
    case DType::kF32:
      return write(at, static_cast<float>(value));
    case DType::kBf16:
      return write(at, to_bf16(static_cast<float>(value)));
    case DType::kF16:
      return write(at, to_f16(static_cast<float>(value)));
    case DType::kF64:
      return write(at, value);
    case DType::kI32:
      return write(at, static_cast<int32_t>(value));
    case DType::kU32:
      return write(at, static_cast<uint32_t>(value));
    case DType::kU8:
      return write(at, static_cast<uint8_t>(value));
  }
}

double Array::at(std::initializer_list<int64_t> coordinates) const {
  int64_t index = 0;
  size_t dim = 0;
  for (int64_t c : coordinates) index = index * shape[dim++] + c;
  return get(index);
}

std::vector<char> Array::payload() const {
  std::vector<char> out;
  for (int64_t i = 0; i < size(); ++i) {
    const char* at = bytes.data() + offset(i);
    out.insert(out.end(), at, at + size_of(dtype));
  }
  return out;
}

Tensor Array::view(void* data) const {
  Tensor t;
  t.data = data;
  t.dtype = dtype;
  t.rank = static_cast<uint8_t>(shape.size());
  int64_t stride = row_stride;
  for (int dim = t.rank - 1; dim >= 0; --dim) {
    const auto d = static_cast<size_t>(dim);
    t.shape[d] = shape[d];
    t.stride[d] = dim == t.rank - 1 ? 1 : stride;
    if (dim < t.rank - 1) stride *= shape[d];
  }
  return t;
}

std::vector<int32_t> permutation(Random& random, int32_t count) {
  std::vector<int32_t> out(static_cast<size_t>(count));
  std::iota(out.begin(), out.end(), 0);
  std::shuffle(out.begin(), out.end(), random);
  return out;
}

}  // namespace longhaul::testing
