#include "mole/adapter_config.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>

#include "files/json_section.h"

namespace longhaul {
namespace {

constexpr size_t kMaxPatterns = 100'000;
constexpr double kMaxAlpha = 1e9;

constexpr struct {
  std::string_view peft_type;
  std::string_view strategy;
  AdapterKind kind;
} kKinds[] = {
    {"LORA", "", AdapterKind::kLora},
    {"DYNMOLE", "dynmole", AdapterKind::kDynMole},
    {"MOLA", "mola", AdapterKind::kMola},
    {"LORAMOE", "loramoe", AdapterKind::kLoraMoe},
    {"MIXLORA", "mixlora", AdapterKind::kMixLora},
    {"MIXLORA", "mixtral", AdapterKind::kMixLora},  // its name before MoE-PEFT
};

// Neither absent nor Python's false, empty or None.
bool is_set(const Json* value) {
  if (!value) return false;
  if (const std::optional<bool> flag = value->as_bool()) return *flag;
  if (value->is_array()) return !value->items().empty();
  if (value->is_object()) return !value->members().empty();
  return true;
}

Result<double> number(const JsonSection& file, std::initializer_list<std::string_view> keys, double otherwise) {
  for (const std::string_view key : keys) {
    if (file.has(key)) return file.positive(key);
  }
  return otherwise;
}

Result<std::vector<std::string>> names(const JsonSection& file, std::string_view key) {
  std::vector<std::string> result;
  const Json* list = file.find(key);
  if (!list) return result;
  // MoE-PEFT also knows {"q_proj": true, "k_proj": false}.
  for (const Json::Member& member : list->members()) {
    const std::optional<bool> chosen = member.value.as_bool();
    if (!chosen) return file.wrong(key, member.value, "expected names with true or false");
    if (*chosen) result.push_back(member.name);
  }
  for (const Json& item : list->items()) {
    if (!item.as_string()) return file.wrong(key, item, "expected names");
    result.push_back(*item.as_string());
  }
  if (!list->is_array() && !list->is_object()) return file.wrong(key, *list, "expected a list of names");
  if (result.size() > kMaxPatterns) return file.wrong(key, *list, "which has too many names");
  return result;
}

Status refuse(const JsonSection& file, std::initializer_list<std::pair<std::string_view, const char*>> keys) {
  for (const auto& [key, advice] : keys) {
    if (is_set(file.find(key))) return file.refused(key, *file.find(key), advice);
  }
  return {};
}

Result<AdapterKind> parse_kind(const JsonSection& file) {
  LONGHAUL_ASSIGN(const std::string type, file.text("peft_type", ""));
  LONGHAUL_ASSIGN(const std::string strategy, file.text("routing_strategy", ""));
  for (const auto& known : kKinds) {
    if (type.empty() ? strategy != known.strategy : type != known.peft_type) continue;
    if (known.kind != AdapterKind::kMixLora || strategy == "mixlora" || strategy == "mixtral")
      return known.kind;
    if (!file.has("routing_strategy")) return file.missing("routing_strategy");
    return file.refused("routing_strategy", *file.find("routing_strategy"), "of MixLoRA only mixlora is");
  }
  return file.refused(type.empty() ? "routing_strategy" : "peft_type",
                      *file.find(type.empty() ? "routing_strategy" : "peft_type"),
                      "supported are LORA, DYNMOLE, MOLA, LORAMOE and MIXLORA");
}

Result<LoraSize> parse_size(const JsonSection& file) {
  LoraSize size;
  LONGHAUL_ASSIGN(const int64_t rank, file.integer("r", 1, kMaxAdapterRank));
  size.rank = static_cast<int32_t>(rank);
  LONGHAUL_ASSIGN(size.alpha, file.positive("lora_alpha"));
  if (size.alpha > kMaxAlpha) return file.wrong("lora_alpha", *file.find("lora_alpha"), "which is too large");
  LONGHAUL_ASSIGN(size.rank_stabilized, file.flag("use_rslora"));
  return size;
}

Status parse_router(const JsonSection& file, AdapterConfig& config) {
  LONGHAUL_ASSIGN(const int64_t experts, file.integer("num_experts", 1, kMaxExperts));
  config.experts = static_cast<int32_t>(experts);
  if (config.kind == AdapterKind::kLoraMoe) {
    config.router = dense_router(config.experts);
    return {};
  }
  if (config.kind != AdapterKind::kDynMole) {
    LONGHAUL_ASSIGN(const int64_t top_k, file.integer("top_k", 1, experts, std::min<int64_t>(2, experts)));
    config.router = top_k_router(static_cast<int32_t>(top_k));
    return {};
  }
  RouterSettings& router = config.router;
  // Behind each key its names in older files.
  LONGHAUL_ASSIGN(router.top_p, number(file, {"top_p"}, router.top_p));
  LONGHAUL_ASSIGN(router.entropy_threshold,
                  number(file, {"entropy_threshold", "entropy_threshhold", "broadcast_threshhold"},
                         router.entropy_threshold));
  LONGHAUL_ASSIGN(router.entropy_index, number(file, {"entropy_index", "entropy_q"}, router.entropy_index));
  LONGHAUL_ASSIGN(router.entropy_eps, number(file, {"entropy_eps"}, router.entropy_eps));
  LONGHAUL_ASSIGN(const int64_t keep, file.integer("keep_top_k", 1, INT32_MAX, router.keep_top_k));
  router.keep_top_k = static_cast<int32_t>(keep);
  LONGHAUL_ASSIGN(const std::string type, file.text("entropy_type", "tsallis"));
  if (type == "renyi") {
    router.entropy_type = EntropyType::kRenyi;
  } else if (type != "tsallis") {
    return file.refused("entropy_type", *file.find("entropy_type"), "supported are tsallis and renyi");
  }
  return {};
}

// Names that PEFT treats as regular expressions, as long as they are plain names: then `^` is all there is.
Status check_pattern(const JsonSection& file, std::string_view key, const Json::Member& member) {
  const std::string_view name = std::string_view(member.name).substr(member.name.starts_with('^') ? 1 : 0);
  for (const char c : name) {
    const bool plain =
        (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.';
    if (!plain)
      return file.refused(key, Json(member.name), "write the names of modules, not regular expressions");
  }
  return {};
}

Status parse_patterns(const JsonSection& file, AdapterConfig& config) {
  for (const std::string_view key : {"rank_pattern", "alpha_pattern"}) {
    const Json* pattern = file.find(key);
    if (!pattern) continue;
    if (!pattern->is_object()) return file.wrong(key, *pattern, "expected an object");
    if (pattern->members().size() > kMaxPatterns) return file.wrong(key, *pattern, "which has too many names");
    for (const Json::Member& member : pattern->members()) {
      LONGHAUL_TRY(check_pattern(file, key, member));
      const std::optional<double> value = member.value.as_double();
      const std::optional<int64_t> rank = member.value.as_int64();
      if (key == "alpha_pattern") {
        if (!value || !(*value > 0) || *value > kMaxAlpha)
          return file.wrong(key, member.value, "expected positive numbers");
        config.alphas.emplace_back(member.name, *value);
      } else {
        if (!rank || *rank < 1 || *rank > kMaxAdapterRank) {
          return file.wrong(key, member.value, "expected ranks from 1 to " + std::to_string(kMaxAdapterRank));
        }
        config.ranks.emplace_back(member.name, static_cast<int32_t>(*rank));
      }
    }
  }
  return {};
}

Status parse_layers(const JsonSection& file, AdapterConfig& config) {
  const Json* layers = file.find("layers_to_transform");
  if (!layers) return {};
  const Json* pattern = file.find("layers_pattern");
  const Json* one = pattern && pattern->items().size() == 1 ? &pattern->items()[0] : pattern;
  if (is_set(pattern) && (!one->as_string() || (*one->as_string() != "layers" && !one->as_string()->empty()))) {
    return file.refused("layers_pattern", *pattern, "the layers of supported models are named \"layers\"");
  }
  config.layers.emplace();
  const Json* const single[] = {layers};
  const size_t count = layers->is_array() ? layers->items().size() : 1;
  for (size_t i = 0; i < count; ++i) {
    const Json& item = layers->is_array() ? layers->items()[i] : *single[0];
    const std::optional<int64_t> layer = item.as_int64();
    if (!layer || *layer < 0) return file.wrong("layers_to_transform", item, "expected numbers of layers");
    config.layers->push_back(*layer);
  }
  return {};
}

// Where the trained difference is more than B A, or the base model is not the one that was downloaded.
Status refuse_other_loras(const JsonSection& file, const Json& json) {
  LONGHAUL_TRY(refuse(file, {{"modules_to_save", "the adapter replaces whole layers; merge it into the model"},
                             {"fan_in_fan_out", "no supported model stores its weights transposed"},
                             {"lora_bias", "train the adapter without biases, or merge it into the model"},
                             {"target_parameters", "supported are the linear projections of layers"},
                             {"trainable_token_indices", "merge the adapter into the model"},
                             {"layer_replication", "the adapter is of a model with repeated layers"},
                             {"alora_invocation_tokens", "activated LoRA changes in the middle of a text"},
                             {"arrow_config", "load its LoRAs one by one"}}));
  LONGHAUL_ASSIGN(const std::string bias, file.text("bias", "none"));
  if (bias != "none")
    return file.refused("bias", *file.find("bias"), "train with bias \"none\" or merge the adapter");
  for (const Json::Member& member : json.members()) {
    if (!member.name.starts_with("use_") || member.name == "use_rslora" || member.name == "use_dora") continue;
    if (is_set(&member.value))
      return file.refused(member.name, member.value, "of LoRA's variants, rsLoRA and DoRA are");
  }
  const Json* init = file.find("init_lora_weights");
  if (!init || init->as_bool()) return {};
  const std::string* name = init->as_string();
  if (name && (*name == "gaussian" || *name == "eva" || *name == "orthogonal")) return {};
  return file.refused(
      "init_lora_weights", *init,
      "it changed the base model before training; convert the adapter to a plain LoRA with PEFT");
}

Status refuse_of_routed(const JsonSection& file, const AdapterConfig& config) {
  LONGHAUL_ASSIGN(const std::string activation, file.text("act_fn", "silu"));
  if (activation != "silu") return file.refused("act_fn", *file.find("act_fn"), "supported models use silu");
  // DynMoLE's published code accepts use_dora and ignores it: there it means nothing.
  if (config.kind == AdapterKind::kDynMole) return {};
  return refuse(file, {{"use_dora", "its magnitudes are not part of files of routed adapters"}});
}

bool ends_with_module(std::string_view module, std::string_view name) {
  if (!module.ends_with(name) || name.empty()) return false;
  return module.size() == name.size() || module[module.size() - name.size() - 1] == '.';
}

template <class T>
const T* first_match(const std::vector<std::pair<std::string, T>>& patterns, std::string_view module) {
  for (const auto& [pattern, value] : patterns) {
    const bool whole = pattern.starts_with('^');
    if (whole ? module == std::string_view(pattern).substr(1) : ends_with_module(module, pattern))
      return &value;
  }
  return nullptr;
}

}  // namespace

float LoraSize::scale() const {
  return static_cast<float>(alpha / (rank_stabilized ? std::sqrt(static_cast<double>(rank)) : rank));
}

std::string module_name(int64_t layer, Projection projection) {
  const bool attention = projection <= Projection::kO;
  return "model.layers." + std::to_string(layer) + (attention ? ".self_attn." : ".mlp.") + name_of(projection);
}

std::optional<bool> AdapterConfig::adapts(int64_t layer, Projection projection) const {
  if (layers && std::find(layers->begin(), layers->end(), layer) == layers->end()) return false;
  const std::string module = module_name(layer, projection);
  const auto matches = [&](const std::string& name) { return ends_with_module(module, name); };
  if (std::any_of(excluded.begin(), excluded.end(), matches)) return false;
  if (!targets) return std::nullopt;
  return std::any_of(targets->begin(), targets->end(), matches);
}

LoraSize AdapterConfig::plain_size(int64_t layer, Projection projection) const {
  LoraSize size = plain;
  const std::string module = module_name(layer, projection);
  if (const int32_t* rank = first_match(ranks, module)) size.rank = *rank;
  if (const double* alpha = first_match(alphas, module)) size.alpha = *alpha;
  return size;
}

Result<AdapterConfig> parse_adapter_config(const Json& json, std::string_view source) {
  if (!json.is_object()) {
    return corrupt_file(std::string(source) + ": is " + json.kind_name() + ", expected an object");
  }
  const JsonSection file(&json, std::string(source));
  AdapterConfig config;
  config.source = source;
  LONGHAUL_ASSIGN(config.kind, parse_kind(file));
  LONGHAUL_ASSIGN(config.base_model, file.text("base_model_name_or_path", ""));
  LONGHAUL_ASSIGN(config.plain, parse_size(file));
  config.expert = config.plain;
  LONGHAUL_TRY(refuse_other_loras(file, json));
  if (config.kind == AdapterKind::kLora) {
    LONGHAUL_ASSIGN(config.dora, file.flag("use_dora"));
    LONGHAUL_TRY(parse_patterns(file, config));
    LONGHAUL_TRY(parse_layers(file, config));
    LONGHAUL_ASSIGN(config.excluded, names(file, "exclude_modules"));
  } else {
    LONGHAUL_TRY(parse_router(file, config));
    LONGHAUL_TRY(refuse_of_routed(file, config));
    if (const Json* expert = file.find("expert_lora")) {
      const JsonSection section(expert, std::string(source), "expert_lora.");
      LONGHAUL_ASSIGN(config.expert, parse_size(section));
    }
  }
  const Json* targets = file.find("target_modules");
  if (!targets) return file.missing("target_modules");
  if (config.kind == AdapterKind::kLora && targets->as_string()) return config;
  LONGHAUL_ASSIGN(config.targets, names(file, "target_modules"));
  return config;
}

}  // namespace longhaul
