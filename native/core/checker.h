// Collects the first thing that is wrong with an op's arguments. Text is built only when something is.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>

#include "core/backend.h"
#include "core/status.h"
#include "core/tensor.h"

namespace longhaul {

constexpr uint32_t one_of(DType type) {
  return 1u << static_cast<int>(type);
}
constexpr uint32_t kOnlyF32 = one_of(DType::kF32);
constexpr uint32_t kOnlyF64 = one_of(DType::kF64);
constexpr uint32_t kOnlyI32 = one_of(DType::kI32);
constexpr uint32_t kOnlyU8 = one_of(DType::kU8);
constexpr uint32_t kF32OrBf16 = one_of(DType::kF32) | one_of(DType::kBf16);
constexpr uint32_t kStorage = kF32OrBf16 | one_of(DType::kF16);  // of weights, keys and values
constexpr uint32_t kAnyDType = ~0u;

constexpr int64_t kAnyExtent = -1;

class Checker {
 public:
  explicit Checker(const char* op) : op_(op) {}

  // `t` has data (unless it is empty), one of `dtypes`, `shape` (kAnyExtent matches all), an innermost stride
  // of 1; outer dimensions may be strided.
  Checker& tensor(const char* name, const Tensor& t, uint32_t dtypes, std::initializer_list<int64_t> shape);

  // As tensor, and without gaps.
  Checker& dense(const char* name, const Tensor& t, uint32_t dtypes, std::initializer_list<int64_t> shape);

  Checker& weight(const char* name, const Weight* w);

  // `what` reads behind the op's name: "budget must be at least 1".
  Checker& require(bool condition, const char* what) {
    if (status_.ok() && !condition) fail(what);
    return *this;
  }

  // As require, with the value that is wrong.
  Checker& require(bool condition, const char* what, int64_t value) {
    if (status_.ok() && !condition) fail(std::string(what) + ", got " + std::to_string(value));
    return *this;
  }

  bool ok() const { return status_.ok(); }
  Status status() { return std::move(status_); }

 private:
  void fail(const std::string& what) { status_ = invalid_argument(std::string(op_) + ": " + what); }

  const char* op_;
  Status status_;
};

}  // namespace longhaul
