// What the suites of SequenceAttention share: tensors of a rank, and the grids that its ranks can form.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "attention_case.h"
#include "parallel/sequence_attention.h"
#include "ranks.h"

namespace longhaul::testing {

// Tensors of one rank in its device's memory.
class DeviceRows {
 public:
  DeviceRows(Backend& backend, Stream& stream) : backend_(backend), stream_(stream) {}

  // Rows `rows` of x, whose rows are [heads, dim].
  Tensor put(const std::vector<float>& x, std::span<const int32_t> rows, int64_t heads, int64_t dim,
             DType dtype) {
    const int64_t width = heads * dim;
    std::vector<float> values;
    std::vector<Bf16> halves;
    for (int32_t row : rows) {
      for (int64_t i = 0; i < width; ++i) {
        values.push_back(x[static_cast<size_t>(row * width + i)]);
        halves.push_back(to_bf16(values.back()));
      }
    }
    const Tensor tensor = make(dtype, static_cast<int64_t>(rows.size()), heads, dim);
    const void* const from = dtype == DType::kF32 ? static_cast<const void*>(values.data()) : halves.data();
    EXPECT_OK(backend_.upload(stream_, tensor.data, from, static_cast<size_t>(tensor.bytes())));
    return tensor;
  }

  Tensor make(DType dtype, int64_t rows, int64_t heads, int64_t dim) {
    Tensor tensor = Tensor::dense(nullptr, dtype, {rows, heads, dim});
    auto buffer = backend_.allocate(static_cast<size_t>(tensor.bytes()) + 64, MemoryUse::kWorkspace);
    EXPECT_OK(buffer.status());
    tensor.data = buffer.value().data();
    buffers_.push_back(std::move(buffer.value()));
    return tensor;
  }

  std::vector<float> get(const Tensor& tensor) {
    std::vector<char> bytes(static_cast<size_t>(tensor.bytes()));
    EXPECT_OK(backend_.download(stream_, bytes.data(), tensor.data, bytes.size()));
    std::vector<float> values;
    for (int64_t i = 0; i < tensor.elements(); ++i) {
      const void* const at = bytes.data() + static_cast<size_t>(i) * size_of(tensor.dtype);
      values.push_back(tensor.dtype == DType::kF32 ? *static_cast<const float*>(at)
                                                   : to_f32(*static_cast<const Bf16*>(at)));
    }
    return values;
  }

 private:
  Backend& backend_;
  Stream& stream_;
  std::vector<Buffer> buffers_;
};

inline SequenceShape shape_of(const AttentionCase& c, DType dtype) {
  return {.heads = static_cast<int32_t>(c.heads),
          .kv_heads = static_cast<int32_t>(c.kv_heads),
          .dim = static_cast<int32_t>(c.dim),
          .activation = dtype,
          .kv = dtype,
          .scale = c.scale()};
}

enum class Against { kBits, kMillionth, kBf16 };

struct NamedGrid {
  std::string name;
  SequenceGrid grid;
  Against against;
};

inline std::vector<NamedGrid> grids_of(int ranks) {
  constexpr auto kRing = ContextExchange::kRing;
  constexpr auto kAllGather = ContextExchange::kAllGather;
  constexpr auto kContiguous = RowScheme::kContiguous;
  constexpr auto kZigzag = RowScheme::kZigzag;
  std::vector<NamedGrid> grids = {
      {"ulysses", {ranks, 1, kContiguous, kRing}, Against::kBits},
      {"ring", {1, ranks, kContiguous, kRing}, Against::kMillionth},
      {"zigzag ring", {1, ranks, kZigzag, kRing}, Against::kMillionth},
      {"all-gather", {1, ranks, kContiguous, kAllGather}, Against::kBits},
      {"zigzag all-gather", {1, ranks, kZigzag, kAllGather}, Against::kBits},
  };
  for (int ulysses = 2; ulysses < ranks; ulysses *= 2) {
    const std::string name = std::to_string(ulysses) + " x " + std::to_string(ranks / ulysses);
    grids.push_back({"hybrid " + name, {ulysses, ranks / ulysses, kZigzag, kRing}, Against::kMillionth});
    grids.push_back(
        {"hybrid all-gather " + name, {ulysses, ranks / ulysses, kZigzag, kAllGather}, Against::kBits});
  }
  return grids;
}

}  // namespace longhaul::testing
