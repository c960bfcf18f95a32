#include "memory.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/random.h"

namespace longhaul::bench {
namespace {

// Several times the largest third-level cache that a core sees on the machines of today.
constexpr int64_t kColdBytes = int64_t{192} << 20;
constexpr int64_t kMostCopies = 512;

template <class T>
void fill(uint64_t seed, float deviation, T* out, int64_t count) {
  const float width = deviation * std::sqrt(12.0f);
  for (int64_t i = 0; i < count; ++i) {
    out[i] = from_f32<T>(static_cast<float>(uniform01(seed, static_cast<uint64_t>(i)) - 0.5) * width);
  }
}

}  // namespace

int64_t Memory::cold_copies(int64_t bytes) {
  return std::clamp<int64_t>(kColdBytes / std::max<int64_t>(bytes, 1) + 1, 2, kMostCopies);
}

uint64_t Memory::next() {
  return mix64(seed_ += 0x9e3779b97f4a7c15u);
}

Result<Tensor> Memory::zeros(DType dtype, std::initializer_list<int64_t> shape) {
  Tensor tensor = Tensor::dense(nullptr, dtype, shape);
  LONGHAUL_ASSIGN(Buffer buffer, backend_.allocate(static_cast<size_t>(tensor.bytes()), MemoryUse::kWorkspace));
  tensor.data = buffer.data();
  buffers_.push_back(std::move(buffer));
  return tensor;
}

Result<Tensor> Memory::from(DType dtype, std::initializer_list<int64_t> shape, const void* host) {
  LONGHAUL_ASSIGN(Tensor tensor, zeros(dtype, shape));
  LONGHAUL_TRY(backend_.upload(stream_, tensor.data, host, static_cast<size_t>(tensor.bytes())));
  return tensor;
}

Result<Tensor> Memory::random(DType dtype, std::initializer_list<int64_t> shape, float deviation) {
  LONGHAUL_ASSIGN(Tensor tensor, zeros(dtype, shape));
  // A block of a prime length goes round: drawing every number would take longer than the measurement.
  constexpr int64_t kBlock = 1048573;
  const int64_t count = std::min(tensor.elements(), kBlock);
  std::vector<char> block(static_cast<size_t>(count) * size_of(dtype));
  switch (dtype) {
    case DType::kF32:
      fill(next(), deviation, reinterpret_cast<float*>(block.data()), count);
      break;
    case DType::kBf16:
      fill(next(), deviation, reinterpret_cast<Bf16*>(block.data()), count);
      break;
    case DType::kF16:
      fill(next(), deviation, reinterpret_cast<F16*>(block.data()), count);
      break;
    default:
      return invalid_argument("random tensors are f32, bf16 or f16");
  }
  const auto total = static_cast<size_t>(tensor.bytes());
  for (size_t at = 0; at < total; at += block.size()) {
    LONGHAUL_TRY(
        backend_.upload(stream_, tensor.as<char>() + at, block.data(), std::min(block.size(), total - at)));
  }
  LONGHAUL_TRY(stream_.synchronize());
  return tensor;
}

Result<const Weight*> Memory::weight(DType dtype, int64_t rows, int64_t cols) {
  const float deviation = 1 / std::sqrt(static_cast<float>(cols));
  LONGHAUL_ASSIGN(Tensor source, random(dtype, {rows, cols}, deviation));
  LONGHAUL_ASSIGN(Weight packed, backend_.pack(std::span(&source, 1)));
  buffers_.pop_back();  // the source
  weights_.push_back(std::make_unique<Weight>(std::move(packed)));
  return static_cast<const Weight*>(weights_.back().get());
}

Result<Workspace> Memory::workspace(size_t bytes) {
  LONGHAUL_ASSIGN(Tensor tensor, zeros(DType::kU8, {static_cast<int64_t>(bytes)}));
  return Workspace{tensor.data, bytes};
}

}  // namespace longhaul::bench
