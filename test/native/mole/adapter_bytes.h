// Adapters made by tests: tensors with known values, as safetensors or as torch.save writes them.
#pragma once

#include <bit>
#include <cstdint>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "files/pickle_bytes.h"
#include "files/safetensors_bytes.h"

namespace longhaul {

struct MadeTensor {
  std::string name;
  std::vector<int64_t> shape;
  DType dtype = DType::kF32;

  int64_t elements() const {
    int64_t n = 1;
    for (const int64_t extent : shape) n *= extent;
    return n;
  }
};

// Element `index` of a tensor: small numbers that f16 and bf16 hold exactly, different for every tensor.
inline float made_value(const std::string& name, int64_t index) {
  uint64_t hash = 1469598103934665603ull;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ull;
  hash = (hash ^ static_cast<uint64_t>(index)) * 1099511628211ull;
  return static_cast<float>(static_cast<int64_t>((hash >> 40) % 255) - 127) / 64.0f;
}

inline std::string made_bytes(const MadeTensor& tensor) {
  std::string bytes;
  for (int64_t i = 0; i < tensor.elements(); ++i) {
    const float value = made_value(tensor.name, i);
    if (tensor.dtype == DType::kF32) bytes += little_endian(std::bit_cast<uint32_t>(value), 4);
    if (tensor.dtype == DType::kBf16) bytes += little_endian(to_bf16(value).bits, 2);
    if (tensor.dtype == DType::kF16) bytes += little_endian(to_f16(value).bits, 2);
  }
  return bytes;
}

inline std::string made_safetensors(const std::vector<MadeTensor>& tensors) {
  std::string header, data;
  for (const MadeTensor& tensor : tensors) {
    const std::string bytes = made_bytes(tensor);
    std::string shape;
    for (const int64_t extent : tensor.shape)
      shape += std::string(shape.empty() ? "" : ",").append(std::to_string(extent));
    const char* dtype = tensor.dtype == DType::kF32 ? "F32" : tensor.dtype == DType::kBf16 ? "BF16" : "F16";
    header += std::string(header.empty() ? "{" : ",") + "\"" + tensor.name + "\":{\"dtype\":\"" + dtype +
              "\",\"shape\":[" + shape + "],\"data_offsets\":[" + std::to_string(data.size()) + "," +
              std::to_string(data.size() + bytes.size()) + "]}";
    data += bytes;
  }
  return safetensors_bytes(header + "}", data);
}

// Every second tensor is stored transposed, as a view with strides.
inline std::string made_torch(const std::vector<MadeTensor>& tensors) {
  std::vector<pickle::TensorSpec> specs;
  std::vector<std::string> storages;
  for (const MadeTensor& tensor : tensors) {
    pickle::TensorSpec spec{.name = tensor.name,
                            .shape = tensor.shape,
                            .storage = std::to_string(storages.size()),
                            .storage_elements = tensor.elements(),
                            .parameter = true};
    spec.type = tensor.dtype == DType::kF32    ? "FloatStorage"
                : tensor.dtype == DType::kBf16 ? "BFloat16Storage"
                                               : "HalfStorage";
    std::string bytes = made_bytes(tensor);
    const bool transposed = storages.size() % 2 == 1 && tensor.shape.size() == 2;
    if (transposed) {
      const size_t rows = static_cast<size_t>(tensor.shape[0]), cols = static_cast<size_t>(tensor.shape[1]);
      const size_t size = size_of(tensor.dtype);
      std::string turned;
      for (size_t c = 0; c < cols; ++c) {
        for (size_t r = 0; r < rows; ++r) turned += bytes.substr((r * cols + c) * size, size);
      }
      bytes = turned;
      spec.stride = {1, tensor.shape[0]};
    } else {
      spec.stride.resize(tensor.shape.size(), 1);
      for (size_t d = tensor.shape.size(); d-- > 1;) spec.stride[d - 1] = spec.stride[d] * tensor.shape[d];
    }
    specs.push_back(spec);
    storages.push_back(bytes);
  }
  return pickle::torch_bytes(pickle::dictionary(specs), storages);
}

}  // namespace longhaul
