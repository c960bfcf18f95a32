// An adapter in host memory: what every kind of adapter file is read into and what is brought to a device.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/routing.h"
#include "core/status.h"
#include "core/tensor.h"

namespace longhaul {

inline constexpr int32_t kMaxAdapterRank = 1024;

enum class Projection : uint8_t { kQ, kK, kV, kO, kGate, kUp, kDown };
inline constexpr int kProjections = 7;

// "q_proj", "gate_proj": the name in checkpoints.
const char* name_of(Projection projection);

// The sizes of a model that an adapter has to match.
struct AdaptedModel {
  int64_t layers = 0;
  int64_t hidden = 0;
  int64_t intermediate = 0;
  int64_t q_size = 0;   // heads * head_dim
  int64_t kv_size = 0;  // kv_heads * head_dim

  int64_t inputs(Projection projection) const;
  int64_t outputs(Projection projection) const;
};

enum class AdapterKind : uint8_t { kLora, kDynMole, kMola, kLoraMoe, kMixLora };

// "LoRA", "DynMoLE".
const char* name_of(AdapterKind kind);

// What is added to one linear projection W of one layer:
//   y = W x + scale * sum_e w_e B_e (A_e x)
// With `magnitude` m (DoRA, arXiv 2402.09353; one expert, no router): y = m / |W + scale B A| * (W + scale B A)
// x, the norm taken of each row of [out, in].
struct ProjectionAdapter {
  int32_t experts = 0;  // 0: the projection is not touched; 1: w = 1, no router
  int32_t rank = 0;     // of each expert
  float scale = 0.0f;   // alpha / rank, or alpha / sqrt(rank) for rsLoRA
  Tensor a;             // [experts, rank, in] f32, bf16 or f16
  Tensor b;             // [experts, out, rank], dtype of a
  Tensor magnitude;     // [out] f32; null unless DoRA
  // [experts, in] f32: this projection's own router, which reads the projection's input. Null for one expert
  // and where LayerAdapter::ffn_router decides.
  Tensor router;

  bool present() const { return experts > 0; }
};

struct LayerAdapter {
  std::array<ProjectionAdapter, kProjections> projections;
  // [experts, hidden] f32: one router for gate, up and down (MixLoRA, arXiv 2404.15159). It reads the input of
  // gate and up, and expert e is a whole FFN: out = sum_e w_e FFN_e(x), each with its own gate, up and down.
  // Null for other kinds.
  Tensor ffn_router;

  const ProjectionAdapter& operator[](Projection p) const { return projections[static_cast<size_t>(p)]; }
  ProjectionAdapter& operator[](Projection p) { return projections[static_cast<size_t>(p)]; }
};

// All tensors are dense, finite, and point into `memory`.
struct Adapter {
  AdapterKind kind = AdapterKind::kLora;
  RouterSettings router;             // of every router in the adapter; without meaning for kLora
  std::string base_model;            // base_model_name_or_path of the file, may be empty
  std::vector<LayerAdapter> layers;  // one a layer of the model

  std::unique_ptr<std::byte[]> memory;
  int64_t bytes = 0;  // of `memory`
};

// Whether `adapter` is complete, consistent in itself and fits `model`. kCorruptFile names the layer, the
// projection and the tensor: "layer 3 q_proj: A is [1, 4, 64] f32, the model needs [1, 4, 128]". kUnsupported:
// more than kMaxExperts or kMaxAdapterRank.
Status check(const Adapter& adapter, const AdaptedModel& model);

}  // namespace longhaul
