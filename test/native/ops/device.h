// Runs an op on one backend: arrays go to device memory between guard bands, and come back checked.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "core/ops.h"
#include "ops/array.h"

namespace longhaul::testing {

// One tested table of operations. The CPU backend counts once for each instruction set this machine has. In the
// program built for the emulator the CUDA backend is tested, as a GPU of sm_80 and as one of sm_90; in the
// program built for hardware it is the first GPU.
class Device {
 public:
  // "reference", "cpu_avx2", ... Threads matter to the CPU backend only.
  static std::unique_ptr<Device> open(const std::string& name, int threads = 2);

  // Names for open(): what has to obey the formulas (the reference too), and what is held against the
  // reference.
  static std::vector<std::string> all();
  static std::vector<std::string> tested();

  Backend& backend() { return *backend_; }
  Stream& stream() { return *stream_; }

  Weight pack(std::vector<Array> parts);

 private:
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Stream> stream_;
};

// The arrays of one call in device memory.
class Placement {
 public:
  explicit Placement(Device& device) : device_(device) {}

  // An argument that the op only reads: finish() expects every byte as it was.
  Tensor in(const Array& array);
  // One that it writes: finish() brings the elements back and expects the gaps between them as they were.
  Tensor out(Array& array);
  // Raw memory with guards, for structs.
  void* in_bytes(const void* data, size_t bytes);

  Workspace workspace(size_t bytes);

  // Waits, reads everything back and expects intact guard bands.
  void finish();

 private:
  struct Piece {
    Array* target;  // null: input
    std::vector<char> before;
    size_t guard_begin;  // payload bytes end here
    Buffer buffer;
  };
  void* place(const std::vector<char>& bytes, Array* target);

  Device& device_;
  std::vector<Piece> pieces_;
};

// gtest names may hold no '-'.
struct DeviceName {
  std::string operator()(const ::testing::TestParamInfo<std::string>& info) const { return info.param; }
};

// A test that is run on each device of a list.
class DeviceTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    device_ = Device::open(GetParam());
    reference_ = Device::open("reference");
    ASSERT_NE(device_, nullptr);
    ASSERT_NE(reference_, nullptr);
  }

  Device& device() { return *device_; }
  Device& reference() { return *reference_; }
  DType activation(DType weights) { return device_->backend().activation_dtype(weights); }

  Random random{20240817};

 private:
  std::unique_ptr<Device> device_;
  std::unique_ptr<Device> reference_;
};

#define EXPECT_OK(expr)                                              \
  do {                                                               \
    const ::longhaul::Status status_ = (expr);                       \
    EXPECT_TRUE(status_.ok()) << #expr << ": " << status_.message(); \
  } while (0)

}  // namespace longhaul::testing
