// An adapter on its device, in the form that the ops of LoRA experts take.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "core/ops.h"
#include "mole/adapter.h"

namespace longhaul {

// Projections of a layer that read the same input, and are adapted together.
enum class ProjectionGroup : uint8_t { kQkv, kO, kGateUp, kDown };
inline constexpr int kProjectionGroups = 4;

// The first projection of a group, and how many it has; the others follow it.
Projection first_of(ProjectionGroup group);
int32_t parts_of(ProjectionGroup group);

// MixLoRA's FFN, whose experts hold the activation: they cannot be added up before it. Empty for other kinds.
struct ExpertFfn {
  Tensor gate;  // [experts, hidden] f32, the router; null: the layer has none
  RouterSettings router;
  int32_t experts = 0;
  // A of all experts, no weights: gate, up.
  std::array<ExpertPart, 2> shrink;
  // By expert: B of gate and up, then A of down, each a LoRA of its own.
  std::vector<std::array<ExpertPart, 2>> expand;
  std::vector<ExpertPart> down_shrink;
  // B of all experts, weighted.
  ExpertPart down_expand;

  explicit operator bool() const { return static_cast<bool>(gate); }
};

struct LayerAdapterWeights {
  // Of each group; parts without experts are not adapted.
  std::array<std::array<ExpertPart, kMaxExpertParts>, kProjectionGroups> groups;
  ExpertFfn ffn;

  const std::array<ExpertPart, kMaxExpertParts>& operator[](ProjectionGroup g) const {
    return groups[static_cast<size_t>(g)];
  }
  bool adapts(ProjectionGroup g) const;
};

// What passes with an adapter need of scratch memory.
struct ExpertLimits {
  int64_t experts = 0;  // of any projection
  int64_t ranks = 0;    // experts * rank of any projection
  int64_t ffn = 0;      // 1: some layer has an ExpertFfn

  bool operator==(const ExpertLimits&) const = default;
};

class AdapterWeights {
 public:
  // Brings `adapter` to the device, its matrices as `dtype`. It is not needed afterwards. DoRA's magnitudes
  // wait for rescale(). kOutOfMemory leaves nothing behind.
  static Result<std::unique_ptr<AdapterWeights>> load(Backend& backend, Stream& stream, const Adapter& adapter,
                                                      DType dtype);
  AdapterWeights(const AdapterWeights&) = delete;
  AdapterWeights& operator=(const AdapterWeights&) = delete;

  // Of all adapters of this process: another one has another number, even at the same address.
  uint64_t id() const { return id_; }
  int64_t bytes() const { return bytes_; }  // of device memory
  const LayerAdapterWeights& layer(int64_t index) const { return layers_[static_cast<size_t>(index)]; }
  const ExpertLimits& limits() const { return limits_; }

  // Makes one projection out = factor * (out + delta) + offset (DoRA). [outputs] each; `offset` may be empty.
  Status rescale(int64_t layer, Projection projection, std::span<const float> factor,
                 std::span<const float> offset);

 private:
  AdapterWeights(Backend& backend, Stream& stream, DType dtype);

  Status add_layer(const Adapter& adapter, const LayerAdapter& from);
  Status add_ffn(const Adapter& adapter, const LayerAdapter& from, LayerAdapterWeights& to);
  // Rows [begin, begin + count) of the experts' A, stacked; B with the columns of experts [begin, begin +
  // count).
  Result<const Weight*> pack_a(const ProjectionAdapter& from, int64_t begin, int64_t count);
  Result<const Weight*> pack_b(const ProjectionAdapter& from, int64_t begin, int64_t count);
  Result<const Weight*> pack(const std::vector<float>& values, int64_t rows, int64_t cols);
  Result<Tensor> upload(const float* values, std::initializer_list<int64_t> shape);

  Backend& backend_;
  Stream& stream_;
  DType dtype_;
  uint64_t id_;
  int64_t bytes_ = 0;
  ExpertLimits limits_;
  std::vector<LayerAdapterWeights> layers_;
  std::deque<Weight> weights_;  // parts point into it
  std::vector<Buffer> buffers_;
};

}  // namespace longhaul
