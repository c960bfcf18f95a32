// Values on their way to a kernel and back.
#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <vector>

namespace longhaul::testing {

template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& values) : count_(values.size()) {
    void* data = nullptr;
    EXPECT_EQ(cudaMalloc(&data, bytes()), cudaSuccess);
    data_ = static_cast<T*>(data);
    EXPECT_EQ(cudaMemcpy(data_, values.data(), bytes(), cudaMemcpyHostToDevice), cudaSuccess);
  }
  explicit DeviceArray(size_t count) : DeviceArray(std::vector<T>(count)) {}
  ~DeviceArray() { EXPECT_EQ(cudaFree(data_), cudaSuccess); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() const { return data_; }
  std::vector<T> read() const {
    std::vector<T> values(count_);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(values.data(), data_, bytes(), cudaMemcpyDeviceToHost), cudaSuccess);
    return values;
  }

 private:
  size_t bytes() const { return count_ * sizeof(T); }
  T* data_ = nullptr;
  size_t count_;
};

// Small whole numbers as bf16 or f16: both hold those up to 256 exactly.
inline uint16_t small_number(bool f16, int value) {
  if (value == 0) return 0;
  int exponent = 0;
  while ((value >> exponent) > 1) ++exponent;
  const int fraction = value - (1 << exponent);
  return f16 ? static_cast<uint16_t>((exponent + 15) << 10 | fraction << (10 - exponent))
             : static_cast<uint16_t>((exponent + 127) << 7 |
                                     (exponent <= 7 ? fraction << (7 - exponent) : fraction >> (exponent - 7)));
}

}  // namespace longhaul::testing
