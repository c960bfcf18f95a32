// The host side of the CUDA backend: memory, staging, packing, recording, and what becomes of errors.
#include "cuda/backend.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <random>

#include "core/ops.h"
#include "cuda/weight_layout.h"
#include "emulator/emulator.h"

namespace longhaul {
namespace {

class CudaBackendTest : public ::testing::Test {
 protected:
  void SetUp() override {
    emulator::reset();
    backend_ = std::move(make_cuda_backend(0).value());
    stream_ = std::move(backend_->make_stream().value());
  }
  void TearDown() override {
    stream_.reset();
    backend_.reset();
    EXPECT_EQ(emulator::take_report(), "");
    emulator::reset();
  }

  Buffer allocate(size_t bytes) { return std::move(backend_->allocate(bytes, MemoryUse::kWorkspace).value()); }

  template <class T>
  std::vector<T> read(const void* device, size_t count) {
    std::vector<T> host(count);
    EXPECT_TRUE(backend_->download(*stream_, host.data(), device, count * sizeof(T)).ok());
    return host;
  }

  // out[i] = x[index[i]]: any op will do.
  Status gather(const Buffer& x, const Buffer& index, const Buffer& out) {
    return run(*backend_, *stream_,
               GatherRowsArgs{.x = Tensor::dense(x.data(), DType::kF32, {4, 1}),
                              .index = Tensor::dense(index.data(), DType::kI32, {4}),
                              .out = Tensor::dense(out.data(), DType::kF32, {4, 1})});
  }

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Stream> stream_;
};

std::vector<char> random_bytes(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<char> bytes(count);
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

TEST_F(CudaBackendTest, MemoryComesZeroedAndIsCounted) {
  const uint64_t before = emulator::counts().live_bytes;
  {
    const Buffer buffer = allocate(1000);
    EXPECT_EQ(read<char>(buffer.data(), 1000), std::vector<char>(1000, 0));
    EXPECT_EQ(backend_->allocated(MemoryUse::kWorkspace), 1000u);
    EXPECT_GT(emulator::counts().live_bytes, before);
  }
  EXPECT_EQ(backend_->allocated(MemoryUse::kWorkspace), 0u);
  EXPECT_EQ(emulator::counts().live_bytes, before);
}

// The ring is 1 MiB: many small uploads and one that is larger come round it.
TEST_F(CudaBackendTest, UploadsLeaveTheHostsMemoryToItsOwner) {
  constexpr size_t kPieces = 700, kPiece = 3001, kLarge = 3'000'001;
  const std::vector<char> small = random_bytes(kPieces * kPiece, 1);
  const std::vector<char> large = random_bytes(kLarge, 2);
  const Buffer device = allocate(small.size() + kLarge);
  char* to = static_cast<char*>(device.data());
  std::vector<char> reused(kPiece);
  for (size_t i = 0; i < kPieces; ++i) {
    std::memcpy(reused.data(), small.data() + i * kPiece, kPiece);
    ASSERT_TRUE(backend_->upload(*stream_, to + i * kPiece, reused.data(), kPiece).ok());
    std::fill(reused.begin(), reused.end(), 'x');
  }
  std::vector<char> copy = large;
  ASSERT_TRUE(backend_->upload(*stream_, to + small.size(), copy.data(), copy.size()).ok());
  std::fill(copy.begin(), copy.end(), 'x');
  EXPECT_TRUE(read<char>(to, small.size()) == small);
  EXPECT_TRUE(read<char>(to + small.size(), kLarge) == large);
  EXPECT_TRUE(backend_->upload(*stream_, to, nullptr, 0).ok());
}

TEST_F(CudaBackendTest, ReadbacksHoldTheBytesAfterSynchronize) {
  const Buffer device = allocate(sizeof(int32_t));
  Result<std::unique_ptr<Readback>> readback = backend_->make_readback(sizeof(int32_t));
  ASSERT_TRUE(readback.ok());
  for (int32_t value = 1; value < 4; ++value) {
    ASSERT_TRUE(backend_->upload(*stream_, device.data(), &value, sizeof value).ok());
    ASSERT_TRUE(readback.value()->fetch(*stream_, device.data()).ok());
    ASSERT_TRUE(stream_->synchronize().ok());
    int32_t got = 0;
    std::memcpy(&got, readback.value()->data(), sizeof got);
    EXPECT_EQ(got, value);
  }
}

// Parts of different heights, with and without padding, one larger than a slot of the staging ring.
TEST_F(CudaBackendTest, PackStacksPaddedRows) {
  struct Case {
    DType dtype;
    std::vector<int64_t> rows;
    int64_t cols;
  };
  for (const Case& c :
       {Case{DType::kF32, {3, 5}, 7}, Case{DType::kBf16, {1, 2, 1}, 64}, Case{DType::kF16, {4}, 65},
        Case{DType::kBf16, {300, 200}, 9001}, Case{DType::kF32, {1500, 100}, 2048}}) {
    std::vector<std::vector<char>> data;
    std::vector<Tensor> parts;
    int64_t rows = 0;
    const size_t row_bytes = static_cast<size_t>(c.cols) * size_of(c.dtype);
    for (int64_t part_rows : c.rows) {
      data.push_back(random_bytes(static_cast<size_t>(part_rows) * row_bytes, static_cast<uint32_t>(rows)));
      parts.push_back(Tensor::dense(data.back().data(), c.dtype, {part_rows, c.cols}));
      rows += part_rows;
    }
    const Result<Weight> weight = backend_->pack(parts);
    ASSERT_TRUE(weight.ok()) << weight.status().message();
    EXPECT_EQ(weight.value().rows, rows);
    EXPECT_EQ(weight.value().cols, c.cols);
    EXPECT_EQ(weight.value().dtype, c.dtype);

    const size_t pitch = static_cast<size_t>(cuda::weight_pitch(c.cols, c.dtype)) * size_of(c.dtype);
    EXPECT_EQ(pitch % 128, 0u);
    ASSERT_EQ(weight.value().storage.bytes(), static_cast<size_t>(rows) * pitch);
    std::vector<char> expected;
    for (const std::vector<char>& part : data) {
      for (size_t at = 0; at < part.size(); at += row_bytes) {
        expected.insert(expected.end(), part.begin() + static_cast<int64_t>(at),
                        part.begin() + static_cast<int64_t>(at + row_bytes));
        expected.resize(expected.size() + pitch - row_bytes, 0);
      }
    }
    EXPECT_TRUE(read<char>(weight.value().storage.data(), expected.size()) == expected) << c.cols;
  }
}

TEST_F(CudaBackendTest, PackRefusesWhatDoesNotStack) {
  std::vector<float> data(12);
  const Tensor f32 = Tensor::dense(data.data(), DType::kF32, {3, 4});
  const Tensor narrow = Tensor::dense(data.data(), DType::kF32, {4, 3});
  const Tensor bf16 = Tensor::dense(data.data(), DType::kBf16, {3, 4});
  const Tensor strided = Tensor::dense(data.data(), DType::kF32, {3, 4}).narrow(1, 0, 2);
  for (const std::vector<Tensor>& parts : std::vector<std::vector<Tensor>>{
           {}, {f32, narrow}, {f32, bf16}, {strided}, {Tensor::dense(data.data(), DType::kF64, {2, 2})}}) {
    EXPECT_EQ(backend_->pack(parts).status().code(), Code::kInvalidArgument);
  }
}

TEST_F(CudaBackendTest, ReplaysWhatWasRecorded) {
  const Buffer x = allocate(16), index = allocate(16), out = allocate(16);
  const std::vector<int32_t> order{2, 0, 3, 1};
  ASSERT_TRUE(backend_->upload(*stream_, index.data(), order.data(), 16).ok());
  ASSERT_TRUE(backend_->can_capture());
  ASSERT_TRUE(backend_->begin_capture(*stream_).ok());
  ASSERT_TRUE(gather(x, index, out).ok());
  Result<std::unique_ptr<Graph>> graph = backend_->end_capture(*stream_);
  ASSERT_TRUE(graph.ok()) << graph.status().message();
  EXPECT_EQ(read<float>(out.data(), 4), std::vector<float>(4, 0)) << "recording ran the op";

  for (float base : {10.0f, 20.0f}) {
    std::vector<float> values(4);
    std::iota(values.begin(), values.end(), base);
    ASSERT_TRUE(backend_->upload(*stream_, x.data(), values.data(), 16).ok());
    const uint64_t launches = emulator::counts().launches;
    ASSERT_TRUE(backend_->replay(*stream_, *graph.value()).ok());
    EXPECT_EQ(read<float>(out.data(), 4), (std::vector<float>{base + 2, base, base + 3, base + 1}));
    EXPECT_EQ(emulator::counts().launches, launches) << "a replay launches nothing";
  }
}

TEST_F(CudaBackendTest, AFailedLaunchIsOneErrorAndNoMore) {
  const Buffer x = allocate(16), index = allocate(16), out = allocate(16);
  emulator::fail_launch(1);
  const Status failed = gather(x, index, out);
  EXPECT_EQ(failed.code(), Code::kInternal);
  EXPECT_NE(failed.message().find("cudaErrorLaunchOutOfResources"), std::string::npos) << failed.message();
  EXPECT_TRUE(gather(x, index, out).ok());
  EXPECT_TRUE(stream_->synchronize().ok());
}

TEST_F(CudaBackendTest, AFailureWhileRecordingLeavesTheStreamUsable) {
  const Buffer x = allocate(16), index = allocate(16), out = allocate(16);
  ASSERT_TRUE(backend_->begin_capture(*stream_).ok());
  emulator::fail_launch(1);
  EXPECT_EQ(gather(x, index, out).code(), Code::kInternal);
  static_cast<void>(backend_->end_capture(*stream_));
  EXPECT_TRUE(gather(x, index, out).ok());
  EXPECT_TRUE(stream_->synchronize().ok());
}

TEST_F(CudaBackendTest, MemoryThatIsRefusedSaysWhatIsFree) {
  const Result<Buffer> refused = backend_->allocate(size_t{1} << 40, MemoryUse::kPool);
  EXPECT_EQ(refused.status().code(), Code::kOutOfMemory);
  EXPECT_TRUE(refused.status().message().starts_with("device 'cuda:0' cannot allocate 1099511627776 bytes: "))
      << refused.status().message();
  EXPECT_NE(refused.status().message().find(" bytes are free (allocating memory: cudaErrorMemoryAllocation"),
            std::string::npos)
      << refused.status().message();
  EXPECT_EQ(backend_->allocated(MemoryUse::kPool), 0u);

  emulator::fail_allocation(1);
  EXPECT_EQ(backend_->allocate(64, MemoryUse::kPool).status().code(), Code::kOutOfMemory);
  EXPECT_TRUE(backend_->allocate(64, MemoryUse::kPool).ok());
}

// What lost the device is the answer to everything that follows, without asking the device again.
TEST_F(CudaBackendTest, ALostDeviceStaysLost) {
  Buffer x = allocate(16), index = allocate(16), out = allocate(16);
  ASSERT_TRUE(backend_->begin_capture(*stream_).ok());
  ASSERT_TRUE(gather(x, index, out).ok());
  const Result<std::unique_ptr<Graph>> graph = backend_->end_capture(*stream_);
  ASSERT_TRUE(graph.ok());

  emulator::lose_device(1);
  EXPECT_TRUE(gather(x, index, out).ok()) << "the launch itself is fine";
  const Status lost = stream_->synchronize();
  EXPECT_EQ(lost.code(), Code::kDeviceLost);
  EXPECT_NE(lost.message().find("cudaErrorIllegalAddress"), std::string::npos) << lost.message();
  emulator::reset();  // the device would answer again; the backend must not ask it

  float value = 0;
  std::vector<float> data(4);
  const std::vector<Tensor> parts{Tensor::dense(data.data(), DType::kF32, {2, 2})};
  const std::vector<std::pair<const char*, Status>> answers = {
      {"synchronize", stream_->synchronize()},
      {"upload", backend_->upload(*stream_, x.data(), &value, sizeof value)},
      {"download", backend_->download(*stream_, &value, x.data(), sizeof value)},
      {"allocate", backend_->allocate(64, MemoryUse::kPool).status()},
      {"pack", backend_->pack(parts).status()},
      {"make_stream", backend_->make_stream().status()},
      {"make_readback", backend_->make_readback(4).status()},
      {"begin_capture", backend_->begin_capture(*stream_)},
      {"replay", backend_->replay(*stream_, *graph.value())},
  };
  for (const auto& [call, status] : answers) {
    EXPECT_EQ(status.code(), Code::kDeviceLost) << call;
    EXPECT_EQ(status.message(), lost.message()) << call;
  }
}

TEST(CudaDevices, ThatAreNotThereAreNamed) {
  const Status status = make_cuda_backend(7).status();
  EXPECT_EQ(status.code(), Code::kUnsupported);
  EXPECT_EQ(status.message(), "there is no GPU 7: CUDA counts them from 0 and sees 1");
  EXPECT_EQ(describe_cuda_device(-1).status().code(), Code::kUnsupported);
  const Result<std::string> description = describe_cuda_device(0);
  ASSERT_TRUE(description.ok());
  EXPECT_NE(description.value().find(", 8 multiprocessors, compute capability 8.0, "), std::string::npos)
      << description.value();
}

}  // namespace
}  // namespace longhaul
