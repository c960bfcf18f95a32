#include "array.h"

#include <cstring>

namespace longhaul::golden {
namespace {

template <class T>
double element(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  if constexpr (std::is_same_v<T, Bf16> || std::is_same_v<T, F16>) {
    return to_f32(value);
  } else {
    return static_cast<double>(value);
  }
}

double element(DType dtype, const std::byte* at) {
  switch (dtype) {
    case DType::kF32:
      return element<float>(at);
    case DType::kBf16:
      return element<Bf16>(at);
    case DType::kF16:
      return element<F16>(at);
    case DType::kF64:
      return element<double>(at);
    case DType::kI32:
      return element<int32_t>(at);
    case DType::kU32:
      return element<uint32_t>(at);
    case DType::kU8:
      return element<uint8_t>(at);
  }
  return 0;
}

int64_t row_elements(const std::vector<int64_t>& shape) {
  int64_t elements = 1;
  for (size_t i = 1; i < shape.size(); ++i) elements *= shape[i];
  return elements;
}

}  // namespace

Array Array::of(std::vector<int64_t> shape, std::vector<double> values) {
  Array array;
  array.shape = std::move(shape);
  array.values = std::move(values);
  return array;
}

Array Array::of(std::span<const int32_t> values) {
  return of({static_cast<int64_t>(values.size())}, std::vector<double>(values.begin(), values.end()));
}

void Array::append(const Array& rows) {
  if (shape.empty()) {
    *this = rows;
    return;
  }
  shape[0] += rows.shape[0];
  values.insert(values.end(), rows.values.begin(), rows.values.end());
}

Array Array::rows(int64_t begin, int64_t count) const {
  const int64_t width = row_elements(shape);
  std::vector<int64_t> part = shape;
  part[0] = count;
  return of(std::move(part),
            std::vector<double>(values.begin() + begin * width, values.begin() + (begin + count) * width));
}

std::string describe(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (int64_t extent : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(extent);
  return text + "]";
}

Result<Array> to_array(const Tensor& host) {
  LONGHAUL_ASSERT(host.is_dense());
  Array array;
  array.shape.assign(host.shape.begin(), host.shape.begin() + host.rank);
  array.values.resize(static_cast<size_t>(host.elements()));
  const std::byte* data = host.as<const std::byte>();
  for (size_t i = 0; i < array.values.size(); ++i) {
    array.values[i] = element(host.dtype, data + i * size_of(host.dtype));
  }
  return array;
}

Result<Array> download(Backend& backend, Stream& stream, const Tensor& device) {
  LONGHAUL_ASSERT(device.is_dense());
  std::vector<std::byte> bytes(static_cast<size_t>(device.bytes()));
  LONGHAUL_TRY(stream.synchronize());
  LONGHAUL_TRY(backend.download(stream, bytes.data(), device.data, bytes.size()));
  Tensor host = device;
  host.data = bytes.data();
  return to_array(host);
}

}  // namespace longhaul::golden
