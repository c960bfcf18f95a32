#include "mole/adapter.h"

#include <cmath>
#include <initializer_list>

namespace longhaul {
namespace {

std::string shape_of(const Tensor& tensor) {
  std::string text = "[";
  for (int i = 0; i < tensor.rank; ++i) text += (i ? ", " : "") + std::to_string(tensor.shape[i]);
  return text + "]";
}

Status check_tensor(const std::string& name, const Tensor& tensor, std::initializer_list<int64_t> shape) {
  const Tensor wanted = Tensor::dense(nullptr, tensor.dtype, shape);
  if (!tensor) return corrupt_file(name + " is missing, the model needs " + shape_of(wanted));
  bool same = tensor.rank == wanted.rank && tensor.is_dense();
  for (int i = 0; same && i < wanted.rank; ++i) same = tensor.shape[i] == wanted.shape[i];
  if (same) return {};
  return corrupt_file(name + " is " + shape_of(tensor) + ", the model needs " + shape_of(wanted));
}

Status check_f32(const std::string& name, const Tensor& tensor, std::initializer_list<int64_t> shape) {
  LONGHAUL_TRY(check_tensor(name, tensor, shape));
  if (tensor.dtype == DType::kF32) return {};
  return corrupt_file(name + " is " + name_of(tensor.dtype) + ", it has to be f32");
}

Status check_matrices(const std::string& where, const ProjectionAdapter& part, int64_t inputs,
                      int64_t outputs) {
  if (part.rank < 1 || part.rank > kMaxAdapterRank) {
    return unsupported(where + " has rank " + std::to_string(part.rank) + ", adapters have ranks 1 to " +
                       std::to_string(kMaxAdapterRank));
  }
  if (!std::isfinite(part.scale)) return corrupt_file(where + ": scale is not finite");
  LONGHAUL_TRY(check_tensor(where + ": A", part.a, {part.experts, part.rank, inputs}));
  LONGHAUL_TRY(check_tensor(where + ": B", part.b, {part.experts, outputs, part.rank}));
  const DType dtype = part.a.dtype;
  if (part.b.dtype != dtype || (dtype != DType::kF32 && dtype != DType::kBf16 && dtype != DType::kF16)) {
    return corrupt_file(where + ": A is " + name_of(dtype) + " and B " + name_of(part.b.dtype) +
                        ", both have to be the same of f32, bf16 and f16");
  }
  if (!part.magnitude) return {};
  if (part.experts > 1) return unsupported(where + " has a DoRA magnitude and several experts");
  return check_f32(where + ": magnitude", part.magnitude, {outputs});
}

// Who routes: nobody (one expert), the projection's own router, or the FFN's.
Status check_router(const std::string& where, const Adapter& adapter, const LayerAdapter& layer, Projection p,
                    const AdaptedModel& model) {
  const ProjectionAdapter& part = layer[p];
  if (adapter.kind == AdapterKind::kMixLora && p > Projection::kO) {
    if (part.router) return corrupt_file(where + " has a router of its own beside the FFN's");
    return check_f32(where + ": the FFN's router", layer.ffn_router, {part.experts, model.hidden});
  }
  if (part.router) return check_f32(where + ": router", part.router, {part.experts, model.inputs(p)});
  if (part.experts == 1) return {};
  return corrupt_file(where + " has " + std::to_string(part.experts) + " experts and no router");
}

Status check_settings(const RouterSettings& router) {
  const bool finite = std::isfinite(router.top_p) && std::isfinite(router.entropy_index) &&
                      std::isfinite(router.entropy_threshold) && std::isfinite(router.entropy_eps);
  if (finite && router.keep_top_k >= 1 && router.entropy_index > 0 && router.entropy_eps >= 0) return {};
  return corrupt_file(
      "router settings are out of range: keep_top_k is 1 or more, entropy_index above 0, entropy_eps 0 or "
      "more");
}

}  // namespace

const char* name_of(Projection projection) {
  constexpr const char* kNames[] = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                    "gate_proj", "up_proj", "down_proj"};
  return kNames[static_cast<size_t>(projection)];
}

const char* name_of(AdapterKind kind) {
  constexpr const char* kNames[] = {"LoRA", "DynMoLE", "MoLA", "LoRAMoE", "MixLoRA"};
  return kNames[static_cast<size_t>(kind)];
}

int64_t AdaptedModel::inputs(Projection projection) const {
  if (projection == Projection::kO) return q_size;
  return projection == Projection::kDown ? intermediate : hidden;
}

int64_t AdaptedModel::outputs(Projection projection) const {
  switch (projection) {
    case Projection::kQ:
      return q_size;
    case Projection::kK:
    case Projection::kV:
      return kv_size;
    case Projection::kGate:
    case Projection::kUp:
      return intermediate;
    case Projection::kO:
    case Projection::kDown:
      return hidden;
  }
  return 0;
}

Status check(const Adapter& adapter, const AdaptedModel& model) {
  LONGHAUL_TRY(check_settings(adapter.router));
  if (static_cast<int64_t>(adapter.layers.size()) != model.layers) {
    return corrupt_file("the adapter has " + std::to_string(adapter.layers.size()) + " layers, the model " +
                        std::to_string(model.layers));
  }
  for (int64_t l = 0; l < model.layers; ++l) {
    const LayerAdapter& layer = adapter.layers[static_cast<size_t>(l)];
    for (int i = 0; i < kProjections; ++i) {
      const auto p = static_cast<Projection>(i);
      if (!layer[p].present()) continue;
      const std::string where = "layer " + std::to_string(l) + " " + name_of(p);
      if (layer[p].experts > kMaxExperts) {
        return unsupported(where + " has " + std::to_string(layer[p].experts) + " experts, at most " +
                           std::to_string(kMaxExperts) + " can be routed");
      }
      LONGHAUL_TRY(check_matrices(where, layer[p], model.inputs(p), model.outputs(p)));
      LONGHAUL_TRY(check_router(where, adapter, layer, p, model));
    }
  }
  return {};
}

}  // namespace longhaul
