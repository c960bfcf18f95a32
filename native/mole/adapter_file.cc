#include "mole/adapter_file.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <new>
#include <unordered_set>
#include <utility>

#include "core/arena.h"
#include "files/mapped_file.h"

namespace longhaul {
namespace {

constexpr size_t kMaxConfigBytes = size_t{16} << 20;

// Where the tensors of one kind of adapter are.
struct Names {
  std::string prefix;          // before "layers"
  bool legacy = false;         // MixLoRA before MoE-PEFT: experts before the projection
  bool w_projections = false;  // even older: w1, w2 and w3 for gate, down and up

  std::string layer(int64_t layer) const { return prefix + ".layers." + std::to_string(layer) + "."; }
  std::string projection(Projection p) const {
    if (w_projections && p == Projection::kGate) return "w1_proj";
    if (w_projections && p == Projection::kDown) return "w2_proj";
    if (w_projections && p == Projection::kUp) return "w3_proj";
    return name_of(p);
  }
  std::string module(int64_t l, Projection p) const {
    return layer(l) + (p <= Projection::kO ? "self_attn." : "mlp.") + projection(p);
  }
  std::string expert(int64_t l, Projection p, int32_t expert) const {
    const std::string number = "experts." + std::to_string(expert);
    return legacy ? layer(l) + number + "." + projection(p) : module(l, p) + "." + number;
  }
  std::string ffn_router(int64_t l) const {
    return layer(l) + (legacy ? "gate.weight" : "mlp.moe_gate.weight");
  }
};

Names names_of(const AdapterConfig& config, const AdapterTensors& tensors) {
  switch (config.kind) {
    case AdapterKind::kDynMole:
      return {"dynmole"};
    case AdapterKind::kMola:
      return {"mola"};
    case AdapterKind::kLoraMoe:
      return {"loramoe"};
    case AdapterKind::kMixLora: {
      Names names{"mixlora"};
      for (const StridedEntry& entry : tensors.entries()) {
        if (entry.name.find(".experts.") == entry.name.npos) continue;
        names.legacy |= entry.name.find(".mlp.") == entry.name.npos;
        names.w_projections |= entry.name.find(".w1_proj.") != entry.name.npos ||
                               entry.name.find(".w2_proj.") != entry.name.npos ||
                               entry.name.find(".w3_proj.") != entry.name.npos;
      }
      return names;
    }
    case AdapterKind::kLora:
      break;
  }
  return {"base_model.model.model"};
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

class Reader {
 public:
  Reader(const AdapterConfig& config, const AdapterTensors& tensors, const AdaptedModel& model)
      : config_(config), tensors_(tensors), model_(model), names_(names_of(config, tensors)) {}

  Result<Adapter> read() {
    choose_dtype();
    Adapter adapter;
    adapter.kind = config_.kind;
    adapter.router = config_.router;
    adapter.base_model = config_.base_model;
    adapter.layers.resize(static_cast<size_t>(model_.layers));
    // Everything has its place and its shape before anything is allocated.
    LONGHAUL_TRY(visit(adapter));
    LONGHAUL_TRY(check_complete());
    adapter.bytes = static_cast<int64_t>(arena_.used());
    adapter.memory.reset(new (std::nothrow) std::byte[arena_.used() + Arena::kAlignment]);
    if (!adapter.memory) {
      return out_of_memory(tensors_.path() + ": needs " + std::to_string(arena_.used()) + " bytes of memory");
    }
    void* aligned = adapter.memory.get();
    size_t space = arena_.used() + Arena::kAlignment;
    arena_ = Arena(std::align(Arena::kAlignment, arena_.used(), aligned, space));
    copying_ = true;
    LONGHAUL_TRY(visit(adapter));
    LONGHAUL_TRY(check(adapter, model_));
    return adapter;
  }

 private:
  // Experts keep the type of the file; one that mixes types becomes f32. Routers are always f32.
  void choose_dtype() {
    bool first = true;
    for (const StridedEntry& entry : tensors_.entries()) {
      if (entry.name.find(".lora_A.") == entry.name.npos && entry.name.find(".lora_B.") == entry.name.npos)
        continue;
      dtype_ = first || dtype_ == entry.dtype ? entry.dtype : DType::kF32;
      if (!first && dtype_ != entry.dtype) return;
      first = false;
    }
  }

  // Lays out all tensors; the second time, in real memory, also reads them.
  Status visit(Adapter& adapter) {
    for (int64_t l = 0; l < model_.layers; ++l) {
      LayerAdapter& layer = adapter.layers[static_cast<size_t>(l)];
      for (int i = 0; i < kProjections; ++i) {
        const auto p = static_cast<Projection>(i);
        if (is_adapted(l, p)) LONGHAUL_TRY(visit(l, p, layer[p]));
      }
      if (config_.kind != AdapterKind::kMixLora) continue;
      layer.ffn_router = arena_.take(DType::kF32, {config_.experts, model_.hidden});
      LONGHAUL_TRY(fetch(names_.ffn_router(l), layer.ffn_router, {config_.experts, model_.hidden}));
    }
    return {};
  }

  bool is_adapted(int64_t layer, Projection p) const {
    if (const std::optional<bool> adapted = config_.adapts(layer, p); adapted && *adapted) return true;
    if (names_.w_projections && config_.targets) {
      const std::string name = names_.projection(p);
      if (std::find(config_.targets->begin(), config_.targets->end(), name) != config_.targets->end())
        return true;
    }
    if (config_.targets) return false;
    const std::string module = names_.module(layer, p);
    return config_.adapts(layer, p) == std::nullopt &&
           (tensors_.find(module + ".lora_A.weight") || tensors_.find(module + ".lora_B.weight"));
  }

  bool is_routed(Projection p) const {
    const bool ffn = p > Projection::kO;
    switch (config_.kind) {
      case AdapterKind::kDynMole:
      case AdapterKind::kMola:
        return true;
      case AdapterKind::kLoraMoe:
      case AdapterKind::kMixLora:
        return ffn;
      case AdapterKind::kLora:
        break;
    }
    return false;
  }

  Status visit(int64_t l, Projection p, ProjectionAdapter& part) {
    const bool routed = is_routed(p);
    const LoraSize size = routed ? config_.expert : config_.plain_size(l, p);
    const int64_t in = model_.inputs(p), out = model_.outputs(p);
    part.experts = routed ? config_.experts : 1;
    part.rank = size.rank;
    part.scale = size.scale();
    part.a = arena_.take(dtype_, {part.experts, size.rank, in});
    part.b = arena_.take(dtype_, {part.experts, out, size.rank});
    for (int32_t e = 0; e < part.experts; ++e) {
      const std::string name = routed ? names_.expert(l, p, e) : names_.module(l, p);
      LONGHAUL_TRY(fetch(name + ".lora_A.weight", element(part.a, e), {size.rank, in}));
      LONGHAUL_TRY(fetch(name + ".lora_B.weight", element(part.b, e), {out, size.rank}));
    }
    if (config_.dora) {
      part.magnitude = arena_.take(DType::kF32, {out});
      LONGHAUL_TRY(fetch(names_.module(l, p) + ".lora_magnitude_vector", part.magnitude, {out}));
    }
    if (routed && config_.kind != AdapterKind::kMixLora) {
      part.router = arena_.take(DType::kF32, {part.experts, in});
      LONGHAUL_TRY(fetch(names_.module(l, p) + ".moe_gate.weight", part.router, {part.experts, in}));
    }
    return {};
  }

  // Null while only measuring.
  static Tensor element(const Tensor& tensor, int32_t index) {
    return tensor ? tensor.slice(index, 1) : Tensor{};
  }

  Status fetch(const std::string& name, const Tensor& out, std::vector<int64_t> shape) {
    const StridedEntry* entry = tensors_.find(name);
    if (copying_) return tensors_.copy(*entry, out);
    if (!entry) {
      return corrupt_file(tensors_.path() + ": has no tensor '" + name +
                          "'; is it complete, and is adapter_config.json the one that belongs to it?");
    }
    if (entry->shape != shape) {
      return corrupt_file(tensors_.path() + ": tensor '" + name + "' has shape " + shape_text(entry->shape) +
                          ", adapter and model ask for " + shape_text(shape) + "; is it an adapter of " +
                          (config_.base_model.empty() ? "another model?" : "'" + config_.base_model + "'?"));
    }
    used_.insert(entry->name);
    int64_t bytes = static_cast<int64_t>(size_of(entry->dtype));
    for (const int64_t extent : shape) bytes *= extent;
    source_bytes_ += bytes;
    return {};
  }

  Status check_complete() const {
    for (const StridedEntry& entry : tensors_.entries()) {
      if (used_.contains(entry.name)) continue;
      return corrupt_file(tensors_.path() + ": tensor " + quote_for_message(entry.name) + " is none that " +
                          name_of(config_.kind) + " with " + config_.source +
                          " adds to this model; is it an adapter of another model?");
    }
    if (used_.empty()) {
      return corrupt_file(config_.source + ": target_modules names no projection of the model");
    }
    // Tensors may share elements: a small file must not become a large adapter.
    if (static_cast<uint64_t>(source_bytes_) > tensors_.file_bytes()) {
      return corrupt_file(tensors_.path() + ": has " + std::to_string(source_bytes_) + " bytes of tensors in " +
                          std::to_string(tensors_.file_bytes()) + " bytes; its tensors share their elements");
    }
    return {};
  }

  const AdapterConfig& config_;
  const AdapterTensors& tensors_;
  const AdaptedModel& model_;
  Names names_;
  DType dtype_ = DType::kF32;
  Arena arena_;
  bool copying_ = false;
  std::unordered_set<std::string_view> used_;
  int64_t source_bytes_ = 0;
};

bool exists(const std::string& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

}  // namespace

Result<Adapter> read_adapter(const AdapterConfig& config, const AdapterTensors& tensors,
                             const AdaptedModel& model) {
  return Reader(config, tensors, model).read();
}

Result<Adapter> load_adapter(const std::string& directory, const AdaptedModel& model) {
  const std::string config_path = directory + "/adapter_config.json";
  if (!exists(config_path)) {
    return invalid_argument(directory +
                            ": holds no adapter_config.json; give the directory of an adapter that PEFT "
                            "or MoE-PEFT wrote");
  }
  LONGHAUL_ASSIGN(const Json json, read_json_file(config_path, kMaxConfigBytes));
  LONGHAUL_ASSIGN(const AdapterConfig config, parse_adapter_config(json, config_path));
  std::string path = directory + "/adapter_model.safetensors";
  if (!exists(path)) path = directory + "/adapter_model.bin";
  if (!exists(path)) {
    return invalid_argument(directory + ": holds neither adapter_model.safetensors nor adapter_model.bin");
  }
  LONGHAUL_ASSIGN(const MappedFile file, MappedFile::open(path));
  LONGHAUL_ASSIGN(const AdapterTensors tensors, AdapterTensors::parse(file.bytes(), path));
  return read_adapter(config, tensors, model);
}

}  // namespace longhaul
