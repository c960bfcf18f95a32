// One call of an op on typed arrays: named inputs on their way to a device, named outputs on their way back.
// Knows nothing of JavaScript; runs on any thread.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/ops.h"

namespace longhaul {

// Numbers as typed arrays hold them. kU16 are the bits of bf16 or f16 numbers.
struct HostArray {
  enum class Kind : uint8_t { kF32, kF64, kI32, kU8, kU16 };
  Kind kind = Kind::kF32;
  int64_t elements = 0;
  std::vector<char> bytes;

  template <class T>
  const T* as() const {
    return reinterpret_cast<const T*>(bytes.data());
  }
};

struct KernelInputs {
  std::map<std::string, HostArray> arrays;
  std::map<std::string, double> numbers;  // booleans are 0 and 1
  std::map<std::string, std::string> texts;
};

using KernelOutputs = std::vector<std::pair<std::string, HostArray>>;

class KernelCall {
 public:
  KernelCall(std::shared_ptr<Backend> backend, KernelInputs inputs);

  // ---- inputs: the first that is missing or wrong becomes the call's status, and reads as zero ----
  bool has(const char* name) const { return inputs_.arrays.count(name) > 0; }
  int64_t integer(const char* name);
  int32_t index(const char* name) { return static_cast<int32_t>(integer(name)); }
  double number(const char* name);
  float real(const char* name) { return static_cast<float>(number(name)); }
  bool flag(const char* name) { return number(name) != 0; }
  std::string text(const char* name);
  // The array itself, with as many elements as `shape` says. Null when it is not there.
  const HostArray* host(const char* name, HostArray::Kind kind, std::initializer_list<int64_t> shape);
  // On the device: an array of floats (rounded when `dtype` is bf16), or of integers.
  Tensor tensor(const char* name, DType dtype, std::initializer_list<int64_t> shape);
  Tensor optional_tensor(const char* name, DType dtype, std::initializer_list<int64_t> shape) {
    return has(name) ? tensor(name, dtype, shape) : Tensor();
  }
  // A matrix of weights: f32, or 16-bit floats whose dtype is the text `<name>Dtype`.
  const Weight* weight(const char* name, int64_t rows, int64_t cols);
  // Row or token numbers that a kernel would follow without looking.
  void require_below(const char* name, const HostArray* indices, int64_t limit);

  // ---- device memory, freed with the call ----
  Tensor zeros(DType dtype, std::initializer_list<int64_t> shape);
  Tensor upload(const void* data, DType dtype, std::initializer_list<int64_t> shape);
  Workspace workspace(size_t bytes);

  // ---- outputs: f32 and bf16 become f32 ----
  void output(const char* name, const Tensor& tensor);
  void output(const char* name, const std::vector<float>& values);
  void output(const char* name, const std::vector<int32_t>& values);
  void download(const Tensor& tensor, void* host);

  void fail(Status status) {
    if (status_.ok()) status_ = std::move(status);
  }
  bool ok() const { return status_.ok(); }
  const Status& status() const { return status_; }
  KernelOutputs take_outputs() { return std::move(outputs_); }

  Backend& backend() { return *backend_; }
  Stream& stream() { return *stream_; }

 private:
  void* allocate(size_t bytes);

  std::shared_ptr<Backend> backend_;  // outlives all below
  std::unique_ptr<Stream> stream_;
  KernelInputs inputs_;
  KernelOutputs outputs_;
  Status status_;
  std::vector<Buffer> buffers_;
  std::vector<std::unique_ptr<Weight>> weights_;
};

// Elements of a shape; -1 when an extent is negative or the product is past any memory.
int64_t elements_of(std::initializer_list<int64_t> shape);

// An op by the name that lib/ gives it.
using Kernel = void (*)(KernelCall&);
Kernel find_kernel(const std::string& name);

}  // namespace longhaul
