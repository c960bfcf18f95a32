#include "expert_data.h"

namespace longhaul::bench {

Result<Tensor> routed_weights(Memory& memory, int64_t rows, int64_t parts) {
  std::vector<float> weights(static_cast<size_t>(rows * parts * kExperts));
  for (int64_t row = 0; row < rows * parts; ++row) {
    const auto first = static_cast<int64_t>(memory.next() % static_cast<uint64_t>(kExperts));
    for (int64_t i = 0; i < kRowExperts; ++i) {
      weights[static_cast<size_t>(row * kExperts + (first + 3 * i) % kExperts)] = 1.0f / kRowExperts;
    }
  }
  return memory.from(DType::kF32, {rows, parts, kExperts}, weights.data());
}

}  // namespace longhaul::bench
