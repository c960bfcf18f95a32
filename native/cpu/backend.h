// The optimised CPU backend: its stream, and how ops reach the kernels and threads behind it.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "core/backend.h"
#include "cpu/isa/kernels.h"
#include "cpu/thread_pool.h"

namespace longhaul::cpu {

// Ops return when their work is done, so there is never anything to wait for. Used by one thread at a time.
class CpuStream final : public Stream {
 public:
  // Fast memory for one slot: half of a small second-level cache.
  static constexpr size_t kScratchBytes = 256 * 1024;

  // `scratch` holds `threads` * kScratchBytes.
  CpuStream(const Kernels& kernels, std::shared_ptr<ThreadPool> pool, int threads, Buffer scratch)
      : kernels_(kernels), pool_(std::move(pool)), threads_(threads), scratch_(std::move(scratch)) {}

  Status synchronize() override { return {}; }

  const Kernels& kernels() const { return kernels_; }
  int threads() const { return threads_; }

  // Calls body(task, slot) for every task in [0, tasks), slot < threads(): see ThreadPool::run.
  template <class Body>
  void parallel_for(int64_t tasks, Body&& body) {
    pool_->run(threads_, tasks, std::forward<Body>(body));
  }

  // kScratchBytes, 64-byte aligned, for the task running in `slot`; contents do not outlive the task.
  void* scratch(int slot) const { return static_cast<char*>(scratch_.data()) + slot * kScratchBytes; }

 private:
  const Kernels& kernels_;
  std::shared_ptr<ThreadPool> pool_;
  int threads_;
  Buffer scratch_;
};

// Streams passed to this backend's ops come from its make_stream.
inline CpuStream& cpu_stream(Stream& stream) {
  return static_cast<CpuStream&>(stream);
}

// Kernels know the three float types of values and weights; checked arguments have no other.
inline Element element_of(DType type) {
  return type == DType::kF32 ? Element::kF32 : type == DType::kBf16 ? Element::kBf16 : Element::kF16;
}

}  // namespace longhaul::cpu
