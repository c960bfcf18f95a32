// What tests of CPU ops share: streams of every instruction set this machine has, and numbers to feed them.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "core/ops.h"
#include "cpu/backend.h"
#include "cpu/cpu_features.h"

namespace longhaul::cpu {

// Numbers of a fixed sequence in (-1, 1), rounded to `type` so that every path sees the same values.
class Numbers {
 public:
  explicit Numbers(uint64_t seed) : state_(seed * 2654435761u + 1) {}

  float next() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<float>(static_cast<int32_t>(state_ >> 32)) * 0x1p-31f;
  }

 private:
  uint64_t state_;
};

// A tensor with memory of its own, read and written as f32.
class Values {
 public:
  Values(DType type, std::initializer_list<int64_t> shape) : tensor_(Tensor::dense(nullptr, type, shape)) {
    // One element more than needed, set to a mark: writing past the end is seen.
    bytes_.resize((tensor_.elements() + 1) * size_of(type));
    tensor_.data = bytes_.data();
    set(tensor_.elements(), kMark);
  }
  Values& fill(Numbers& numbers) {
    for (int64_t i = 0; i < tensor_.elements(); ++i) set(i, numbers.next());
    return *this;
  }

  const Tensor& tensor() const { return tensor_; }
  bool intact() const { return get(tensor_.elements()) == kMark; }
  float get(int64_t i) const {
    switch (tensor_.dtype) {
      case DType::kBf16:
        return to_f32(tensor_.as<Bf16>()[i]);
      case DType::kF16:
        return to_f32(tensor_.as<F16>()[i]);
      default:
        return tensor_.as<float>()[i];
    }
  }
  void set(int64_t i, float value) {
    switch (tensor_.dtype) {
      case DType::kBf16:
        tensor_.as<Bf16>()[i] = to_bf16(value);
        break;
      case DType::kF16:
        tensor_.as<F16>()[i] = to_f16(value);
        break;
      default:
        tensor_.as<float>()[i] = value;
    }
  }

 private:
  static constexpr float kMark = 384.0f;  // exact in every type
  std::vector<unsigned char> bytes_;
  Tensor tensor_;
};

// Runs tests once for every instruction set of this machine, with three threads.
class EveryIsa : public ::testing::TestWithParam<std::string> {
 protected:
  static constexpr int kThreads = 3;

  void SetUp() override {
    auto backend = make_cpu_backend(kThreads);
    ASSERT_TRUE(backend.ok()) << backend.status().message();
    backend_ = std::move(backend.value());
    for (const InstructionSet& isa : supported_instruction_sets()) {
      if (GetParam() == isa.name) kernels_ = isa.kernels;
    }
    ASSERT_NE(kernels_, nullptr);
    auto pool = ThreadPool::acquire(kThreads);
    ASSERT_TRUE(pool.ok());
    auto scratch = backend_->allocate(kThreads * CpuStream::kScratchBytes, MemoryUse::kWorkspace);
    ASSERT_TRUE(scratch.ok());
    stream_ = std::make_unique<CpuStream>(*kernels_, pool.value(), kThreads, std::move(scratch.value()));
  }

  Weight pack(std::initializer_list<Tensor> parts) {
    auto weight = backend_->pack(std::span<const Tensor>(parts.begin(), parts.size()));
    EXPECT_TRUE(weight.ok()) << weight.status().message();
    return std::move(weight.value());
  }
  Buffer workspace(size_t bytes) { return std::move(backend_->allocate(bytes, MemoryUse::kWorkspace).value()); }

  std::unique_ptr<Backend> backend_;
  const Kernels* kernels_ = nullptr;
  std::unique_ptr<CpuStream> stream_;
};

inline std::vector<std::string> every_isa() {
  std::vector<std::string> names;
  for (const InstructionSet& isa : supported_instruction_sets()) names.push_back(isa.name);
  return names;
}

inline std::string isa_name(const ::testing::TestParamInfo<std::string>& info) {
  return info.param;
}

}  // namespace longhaul::cpu
