#include "kernel_call.h"

#include <cstring>
#include <type_traits>

namespace longhaul {
namespace {

// Far beyond any memory, far below an overflow of bytes.
constexpr int64_t kMaxElements = int64_t{1} << 48;

HostArray::Kind host_kind(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return HostArray::Kind::kF64;
    case DType::kI32:
    case DType::kU32:
      return HostArray::Kind::kI32;
    case DType::kU8:
      return HostArray::Kind::kU8;
    default:
      return HostArray::Kind::kF32;
  }
}

template <class T>
HostArray to_host(const std::vector<T>& values) {
  constexpr auto kind = std::is_same_v<T, float> ? HostArray::Kind::kF32 : HostArray::Kind::kI32;
  HostArray array{kind, static_cast<int64_t>(values.size()), std::vector<char>(values.size() * sizeof(T))};
  if (!values.empty()) std::memcpy(array.bytes.data(), values.data(), array.bytes.size());
  return array;
}

}  // namespace

int64_t elements_of(std::initializer_list<int64_t> shape) {
  int64_t elements = 1;
  for (int64_t extent : shape) {
    if (extent < 0 || (extent > 0 && elements > kMaxElements / extent)) return -1;
    elements *= extent;
  }
  return elements;
}

KernelCall::KernelCall(std::shared_ptr<Backend> backend, KernelInputs inputs)
    : backend_(std::move(backend)), inputs_(std::move(inputs)) {
  Result<std::unique_ptr<Stream>> stream = backend_->make_stream();
  if (stream.ok()) {
    stream_ = std::move(stream.value());
  } else {
    fail(stream.status());
  }
}

int64_t KernelCall::integer(const char* name) {
  const double value = number(name);
  if (!(value >= -2147483648.0 && value <= 2147483647.0)) {
    fail(invalid_argument(std::string(name) + " does not fit 32 bits"));
    return 0;
  }
  return static_cast<int64_t>(value);
}

double KernelCall::number(const char* name) {
  const auto found = inputs_.numbers.find(name);
  if (found == inputs_.numbers.end()) {
    fail(invalid_argument(std::string(name) + " must be a number"));
    return 0;
  }
  return found->second;
}

std::string KernelCall::text(const char* name) {
  const auto found = inputs_.texts.find(name);
  if (found == inputs_.texts.end()) {
    fail(invalid_argument(std::string(name) + " must be a text"));
    return {};
  }
  return found->second;
}

const HostArray* KernelCall::host(const char* name, HostArray::Kind kind,
                                  std::initializer_list<int64_t> shape) {
  const auto found = inputs_.arrays.find(name);
  const int64_t elements = elements_of(shape);
  if (found == inputs_.arrays.end() || found->second.kind != kind) {
    fail(invalid_argument(std::string(name) + " is missing or of a wrong type"));
    return nullptr;
  }
  if (found->second.elements != elements) {
    fail(invalid_argument(std::string(name) + " must have " + std::to_string(elements) + " elements, not " +
                          std::to_string(found->second.elements)));
    return nullptr;
  }
  return &found->second;
}

Tensor KernelCall::tensor(const char* name, DType dtype, std::initializer_list<int64_t> shape) {
  const HostArray* array = host(name, host_kind(dtype), shape);
  if (array == nullptr) return Tensor::dense(nullptr, dtype, shape);
  if (dtype != DType::kBf16) return upload(array->bytes.data(), dtype, shape);
  std::vector<Bf16> rounded(static_cast<size_t>(array->elements));
  for (size_t i = 0; i < rounded.size(); ++i) rounded[i] = to_bf16(array->as<float>()[i]);
  return upload(rounded.data(), dtype, shape);
}

const Weight* KernelCall::weight(const char* name, int64_t rows, int64_t cols) {
  const std::string dtype_name = text((std::string(name) + "Dtype").c_str());
  const DType dtype = dtype_name == "bf16" ? DType::kBf16 : dtype_name == "f16" ? DType::kF16 : DType::kF32;
  const HostArray* array =
      host(name, dtype == DType::kF32 ? HostArray::Kind::kF32 : HostArray::Kind::kU16, {rows, cols});
  if (array == nullptr) return nullptr;
  const Tensor matrix = Tensor::dense(const_cast<char*>(array->bytes.data()), dtype, {rows, cols});
  Result<Weight> packed = backend_->pack(std::span(&matrix, 1));
  if (!packed.ok()) {
    fail(packed.status());
    return nullptr;
  }
  weights_.push_back(std::make_unique<Weight>(std::move(packed.value())));
  return weights_.back().get();
}

void KernelCall::require_below(const char* name, const HostArray* indices, int64_t limit) {
  if (indices == nullptr) return;
  for (int64_t i = 0; i < indices->elements; ++i) {
    const int32_t index = indices->as<int32_t>()[i];
    if (index >= 0 && index < limit) continue;
    fail(invalid_argument(std::string(name) + "[" + std::to_string(i) + "] must be from 0 to " +
                          std::to_string(limit - 1) + ", got " + std::to_string(index)));
    return;
  }
}

void* KernelCall::allocate(size_t bytes) {
  if (!ok()) return nullptr;
  Result<Buffer> buffer = backend_->allocate(bytes, MemoryUse::kWorkspace);
  if (!buffer.ok()) {
    fail(buffer.status());
    return nullptr;
  }
  buffers_.push_back(std::move(buffer.value()));
  return buffers_.back().data();
}

Tensor KernelCall::zeros(DType dtype, std::initializer_list<int64_t> shape) {
  const int64_t elements = elements_of(shape);
  if (elements < 0) fail(out_of_memory("a kernel's result would be larger than any memory"));
  return Tensor::dense(allocate(static_cast<size_t>(elements) * size_of(dtype)), dtype, shape);
}

Tensor KernelCall::upload(const void* data, DType dtype, std::initializer_list<int64_t> shape) {
  const Tensor tensor = zeros(dtype, shape);
  if (ok()) fail(backend_->upload(*stream_, tensor.data, data, static_cast<size_t>(tensor.bytes())));
  return tensor;
}

Workspace KernelCall::workspace(size_t bytes) {
  return {allocate(bytes), bytes};
}

void KernelCall::download(const Tensor& tensor, void* host) {
  if (ok()) fail(backend_->download(*stream_, host, tensor.data, static_cast<size_t>(tensor.bytes())));
}

void KernelCall::output(const char* name, const Tensor& tensor) {
  if (!ok()) return;
  if (tensor.dtype == DType::kI32) {
    std::vector<int32_t> values(static_cast<size_t>(tensor.elements()));
    download(tensor, values.data());
    output(name, values);
    return;
  }
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  if (tensor.dtype == DType::kBf16) {
    std::vector<Bf16> rounded(values.size());
    download(tensor, rounded.data());
    for (size_t i = 0; i < values.size(); ++i) values[i] = to_f32(rounded[i]);
  } else {
    download(tensor, values.data());
  }
  output(name, values);
}

void KernelCall::output(const char* name, const std::vector<float>& values) {
  outputs_.emplace_back(name, to_host(values));
}

void KernelCall::output(const char* name, const std::vector<int32_t>& values) {
  outputs_.emplace_back(name, to_host(values));
}

}  // namespace longhaul
