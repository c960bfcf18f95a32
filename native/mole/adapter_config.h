// What adapter_config.json says, checked: the only place that knows the keys of PEFT and MoE-PEFT.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/status.h"
#include "files/json.h"
#include "mole/adapter.h"

namespace longhaul {

// The size of one LoRA.
struct LoraSize {
  int32_t rank = 0;
  double alpha = 0;
  bool rank_stabilized = false;  // rsLoRA, arXiv 2312.03732

  float scale() const;
};

struct AdapterConfig {
  AdapterKind kind = AdapterKind::kLora;
  int32_t experts = 1;  // of routed projections
  RouterSettings router;
  LoraSize plain;   // projections without experts
  LoraSize expert;  // each expert
  bool dora = false;
  std::string base_model;  // may be empty
  std::string source;      // the path, for messages

  // Projections by the last parts of their names: "q_proj", "self_attn.q_proj", "layers.3.mlp.up_proj". Without
  // a value the file chose them by a regular expression, and its tensors say which they are.
  std::optional<std::vector<std::string>> targets;
  std::vector<std::string> excluded;
  std::optional<std::vector<int64_t>> layers;  // only these
  // The first that matches changes the rank or alpha of a projection. "^" before a name: it is the whole name.
  std::vector<std::pair<std::string, int32_t>> ranks;
  std::vector<std::pair<std::string, double>> alphas;

  // Nothing: only the tensors know.
  std::optional<bool> adapts(int64_t layer, Projection projection) const;
  LoraSize plain_size(int64_t layer, Projection projection) const;
};

// kUnsupported names what this engine cannot do and what to do instead; kCorruptFile a value missing, of the
// wrong kind or out of range. Both name the key and the value.
Result<AdapterConfig> parse_adapter_config(const Json& json, std::string_view source = "adapter_config.json");

// "model.layers.3.self_attn.q_proj".
std::string module_name(int64_t layer, Projection projection);

}  // namespace longhaul
