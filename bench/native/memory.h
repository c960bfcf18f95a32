// Tensors and weights of one case on one backend, filled with random numbers: the values decide how fast a
// processor may clock, and zeros flatter it.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <vector>

#include "core/ops.h"

namespace longhaul::bench {

class Memory {
 public:
  Memory(Backend& backend, Stream& stream, uint64_t seed) : backend_(backend), stream_(stream), seed_(seed) {}

  Backend& backend() { return backend_; }
  Stream& stream() { return stream_; }
  uint64_t next();  // 64 random bits

  Result<Tensor> zeros(DType dtype, std::initializer_list<int64_t> shape);
  // Uniform with mean 0 and the given standard deviation; f32, bf16 or f16.
  Result<Tensor> random(DType dtype, std::initializer_list<int64_t> shape, float deviation = 1);
  Result<Tensor> from(DType dtype, std::initializer_list<int64_t> shape, const void* host);
  // [rows, cols], scaled so that products keep the size of their inputs.
  Result<const Weight*> weight(DType dtype, int64_t rows, int64_t cols);
  Result<Workspace> workspace(size_t bytes);

  // Copies of `bytes` of data to go round, so that a call finds its own in memory and not in a cache.
  static int64_t cold_copies(int64_t bytes);

 private:
  Backend& backend_;
  Stream& stream_;
  uint64_t seed_;
  std::vector<Buffer> buffers_;
  std::vector<std::unique_ptr<Weight>> weights_;
};

}  // namespace longhaul::bench
