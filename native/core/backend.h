// What a device offers: memory, an in-order queue, packed weights and its table of operations.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "core/status.h"
#include "core/tensor.h"

namespace longhaul {

struct Ops;
class Backend;

// What a piece of device memory is for. Engine::memory() reports one total for each.
enum class MemoryUse : unsigned char { kWeights, kWorkspace, kPool, kTables };
constexpr int kMemoryUses = 4;

// Owns device memory; frees it on its backend.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Backend* backend, void* data, size_t bytes, MemoryUse use)
      : backend_(backend), data_(data), bytes_(bytes), use_(use) {}
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(backend_, other.backend_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(use_, other.use_);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer();

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  MemoryUse use() const { return use_; }

 private:
  Backend* backend_ = nullptr;
  void* data_ = nullptr;
  size_t bytes_ = 0;
  MemoryUse use_ = MemoryUse::kWorkspace;
};

// A matrix [rows (outputs), cols (inputs)] in the layout its backend wants; nobody else looks inside.
struct Weight {
  int64_t rows = 0;
  int64_t cols = 0;
  DType dtype = DType::kF32;
  Buffer storage;
};

// An in-order queue of work. On a CPU every call is done when it returns.
class Stream {
 public:
  virtual ~Stream() = default;
  // Waits for all queued work and returns its first error.
  virtual Status synchronize() = 0;
};

// Takes bytes from the device without waiting for them.
class Readback {
 public:
  virtual ~Readback() = default;
  // In the order of the stream; data() holds the bytes after its next synchronize(). One at a time.
  virtual Status fetch(Stream& stream, const void* device) = 0;
  virtual const void* data() const = 0;
};

// Scratch memory of the caller, in device memory, sized by the op's `*_workspace` query.
struct Workspace {
  void* data = nullptr;
  size_t bytes = 0;
};

// Ops recorded once, to be put into a stream again as one. Every argument is as it was when recorded: what
// changes from one replay to the next has to lie in device memory.
class Graph {
 public:
  virtual ~Graph() = default;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string name() const = 0;         // "reference", "cpu", "cuda:0"
  virtual std::string description() const = 0;  // for people: instruction set, threads
  virtual const Ops& ops() const = 0;

  // The dtype of values between ops for weights of `weights`: bf16 in, bf16 out; everything else f32.
  virtual DType activation_dtype(DType weights) const = 0;

  // Whether its memory can be read and written by the processor, once the stream is synchronized.
  virtual bool is_host_memory() const = 0;

  virtual Result<std::unique_ptr<Stream>> make_stream() = 0;

  // Zeroed memory, 64-byte aligned. kOutOfMemory when the device has no more.
  Result<Buffer> allocate(size_t bytes, MemoryUse use);
  // Bytes now allocated for `use`: exactly the sum of the live Buffers.
  size_t allocated(MemoryUse use) const { return allocated_[static_cast<int>(use)].load(); }

  // In the order of the stream. `host` may be reused when the call returns.
  virtual Status upload(Stream& stream, void* device, const void* host, size_t bytes) = 0;
  // Waits for all queued work; `host` holds the bytes when the call returns.
  virtual Status download(Stream& stream, void* host, const void* device, size_t bytes) = 0;

  // Of `bytes` bytes. Must not be freed between fetch and synchronize.
  virtual Result<std::unique_ptr<Readback>> make_readback(size_t bytes);

  // Whether recording ops saves time here. Between begin_capture and end_capture ops are recorded, not run, and
  // nothing else may be called on the stream. When an op fails in between, end_capture must still be called.
  virtual bool can_capture() const { return false; }
  virtual Status begin_capture(Stream& stream);
  virtual Result<std::unique_ptr<Graph>> end_capture(Stream& stream);
  virtual Status replay(Stream& stream, const Graph& graph);

  // Stacks host matrices [rows_i, cols] of one dtype (f32, bf16, f16) along rows and packs them once.
  // The sources are not needed afterwards.
  virtual Result<Weight> pack(std::span<const Tensor> parts) = 0;

 protected:
  virtual Result<void*> allocate_bytes(size_t bytes) = 0;  // zeroed
  virtual void free_bytes(void* data, size_t bytes) = 0;
  // kOutOfMemory in the words all devices share.
  Status cannot_allocate(size_t bytes) const;

 private:
  friend class Buffer;
  std::array<std::atomic<size_t>, kMemoryUses> allocated_{};
};

// Every backend built into this library by name. `threads` 0 means one per available core.
Result<std::unique_ptr<Backend>> make_reference_backend();
Result<std::unique_ptr<Backend>> make_cpu_backend(int threads);

}  // namespace longhaul
