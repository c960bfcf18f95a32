// A strided window on memory that some Buffer owns. Plain data: passed by value, to kernels too.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>

#include "core/dtype.h"

namespace longhaul {

struct Tensor {
  static constexpr int kMaxRank = 4;

  void* data = nullptr;
  DType dtype = DType::kF32;
  uint8_t rank = 0;
  std::array<int64_t, kMaxRank> shape{};   // outermost first
  std::array<int64_t, kMaxRank> stride{};  // in elements

  // A dense row-major view of `data`.
  static Tensor dense(void* data, DType dtype, std::initializer_list<int64_t> shape) {
    Tensor t;
    t.data = data;
    t.dtype = dtype;
    for (int64_t extent : shape) t.shape[t.rank++] = extent;
    int64_t stride = 1;
    for (int i = t.rank - 1; i >= 0; --i) {
      t.stride[i] = stride;
      stride *= t.shape[i];
    }
    return t;
  }

  explicit operator bool() const { return data != nullptr; }

  int64_t elements() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= shape[i];
    return n;
  }
  int64_t bytes() const { return elements() * static_cast<int64_t>(size_of(dtype)); }

  bool is_dense() const {
    int64_t expected = 1;
    for (int i = rank - 1; i >= 0; --i) {
      if (shape[i] != 1 && stride[i] != expected) return false;
      expected *= shape[i];
    }
    return true;
  }

  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }

  // Elements [begin, begin + count) of the outermost dimension.
  Tensor slice(int64_t begin, int64_t count) const { return narrow(0, begin, count); }

  // Elements [begin, begin + count) of dimension `dim`.
  Tensor narrow(int dim, int64_t begin, int64_t count) const {
    Tensor t = *this;
    t.data = static_cast<char*>(data) + begin * stride[dim] * static_cast<int64_t>(size_of(dtype));
    t.shape[dim] = count;
    return t;
  }

  // Splits the innermost dimension: [..., n * inner] becomes [..., n, inner].
  Tensor split_last(int64_t inner) const {
    Tensor t = *this;
    const int last = rank - 1;
    t.rank = static_cast<uint8_t>(rank + 1);
    t.shape[last] = shape[last] / inner;
    t.shape[last + 1] = inner;
    t.stride[last + 1] = stride[last];
    t.stride[last] = stride[last] * inner;
    return t;
  }
};

}  // namespace longhaul
