#include "model/config.h"

#include <cmath>
#include <numbers>
#include <utility>

#include "files/json_section.h"

namespace longhaul {
namespace {

constexpr size_t kMaxConfigBytes = size_t{16} << 20;

constexpr struct {
  Architecture architecture;
  const char* name;
} kArchitectures[] = {
    {Architecture::kLlama, "LlamaForCausalLM"},
    {Architecture::kMistral, "MistralForCausalLM"},
    {Architecture::kQwen2, "Qwen2ForCausalLM"},
    {Architecture::kQwen3, "Qwen3ForCausalLM"},
};

Result<Architecture> parse_architecture(const JsonSection& file) {
  const Json* list = file.find("architectures");
  if (!list) return file.missing("architectures");
  if (list->items().size() != 1 || !list->items()[0].as_string()) {
    return file.wrong("architectures", *list, "expected a list of one name");
  }
  const Json& entry = list->items()[0];
  std::string known;
  for (const auto& [architecture, name] : kArchitectures) {
    if (*entry.as_string() == name) return architecture;
    known += (known.empty() ? "" : ", ") + std::string(name);
  }
  return file.refused("architectures", entry, "supported are " + known);
}

Status parse_sizes(const JsonSection& file, ModelConfig& config) {
  LONGHAUL_ASSIGN(config.vocab_size, file.integer("vocab_size", 1, int64_t{1} << 24));
  LONGHAUL_ASSIGN(config.hidden_size, file.integer("hidden_size", 1, int64_t{1} << 17));
  LONGHAUL_ASSIGN(config.intermediate_size, file.integer("intermediate_size", 1, int64_t{1} << 20));
  LONGHAUL_ASSIGN(config.layers, file.integer("num_hidden_layers", 1, 1024));
  LONGHAUL_ASSIGN(config.heads, file.integer("num_attention_heads", 1, 1024));
  LONGHAUL_ASSIGN(config.kv_heads, file.integer("num_key_value_heads", 1, 1024, config.heads));
  LONGHAUL_ASSIGN(config.max_positions, file.integer("max_position_embeddings", 1, int64_t{1} << 28));
  if (config.heads % config.kv_heads != 0) {
    return file.wrong("num_key_value_heads", *file.find("num_key_value_heads"),
                      "which does not divide num_attention_heads " + std::to_string(config.heads));
  }
  if (const Json* head_dim = file.find("head_dim")) {
    LONGHAUL_ASSIGN(config.head_dim, file.integer("head_dim", 1, int64_t{1} << 17));
    if (config.head_dim < 8 || config.head_dim > 256) {
      return file.refused("head_dim", *head_dim, "supported are even numbers from 8 to 256");
    }
    if (config.head_dim % 2 != 0) return file.wrong("head_dim", *head_dim, "expected an even number");
    return {};
  }
  if (config.hidden_size % config.heads != 0) {
    return file.wrong("num_attention_heads", *file.find("num_attention_heads"),
                      "which does not divide hidden_size " + std::to_string(config.hidden_size) +
                          " and there is no head_dim");
  }
  config.head_dim = config.hidden_size / config.heads;
  if (config.head_dim < 8 || config.head_dim > 256 || config.head_dim % 2 != 0) {
    return unsupported(file.source() + ": hidden_size / num_attention_heads is " +
                       std::to_string(config.head_dim) +
                       "; supported head sizes are even numbers from 8 to 256");
  }
  return {};
}

// Biases and norms are fixed by each architecture's published code, only some of them by keys of the file.
Status parse_layers(const JsonSection& file, ModelConfig& config) {
  LONGHAUL_ASSIGN(const bool attention_bias, file.flag("attention_bias"));
  LONGHAUL_ASSIGN(const bool mlp_bias, file.flag("mlp_bias"));
  const bool is_llama = config.architecture == Architecture::kLlama;
  const bool reads_attention_bias = is_llama || config.architecture == Architecture::kQwen3;
  config.qkv_bias = config.architecture == Architecture::kQwen2 || (reads_attention_bias && attention_bias);
  config.o_bias = reads_attention_bias && attention_bias;
  config.mlp_bias = is_llama && mlp_bias;
  config.qk_norm = config.architecture == Architecture::kQwen3;
  LONGHAUL_ASSIGN(config.tie_word_embeddings, file.flag("tie_word_embeddings"));
  LONGHAUL_ASSIGN(config.rms_norm_eps, file.positive("rms_norm_eps", 1e-6));

  LONGHAUL_ASSIGN(const std::string activation, file.text("hidden_act", "silu"));
  if (activation != "silu") return file.refused("hidden_act", *file.find("hidden_act"), "supported is silu");
  if (const Json* quantization = file.find("quantization_config")) {
    return file.refused("quantization_config", *quantization, "use the model's f32, f16 or bf16 weights");
  }
  return {};
}

Status refuse_sliding_windows(const JsonSection& file, const ModelConfig& config) {
  const std::string hint = "only full attention in every layer is supported";
  const bool is_qwen =
      config.architecture == Architecture::kQwen2 || config.architecture == Architecture::kQwen3;
  if (config.architecture == Architecture::kMistral && file.has("sliding_window")) {
    LONGHAUL_ASSIGN(const int64_t window, file.integer("sliding_window", 1, INT64_MAX));
    // A window that no position of the model reaches past is full attention.
    if (window < config.max_positions)
      return file.refused("sliding_window", *file.find("sliding_window"), hint);
  }
  if (is_qwen) {
    LONGHAUL_ASSIGN(const bool uses_window, file.flag("use_sliding_window"));
    if (uses_window) return file.refused("use_sliding_window", *file.find("use_sliding_window"), hint);
  }
  if (const Json* types = file.find("layer_types")) {
    if (!types->is_array()) return file.wrong("layer_types", *types, "expected a list");
    for (const Json& type : types->items()) {
      if (!type.as_string()) return file.wrong("layer_types", type, "expected a name");
      if (*type.as_string() != "full_attention") return file.refused("layer_types", type, hint);
    }
  }
  return {};
}

Result<double> parse_factor(const JsonSection& section) {
  LONGHAUL_ASSIGN(const double factor, section.positive("factor"));
  if (factor < 1.0) return section.wrong("factor", *section.find("factor"), "expected at least 1");
  return factor;
}

Status parse_scaling(const JsonSection& section, RopeConfig& rope) {
  const char* key = section.has("rope_type") ? "rope_type" : "type";
  // Without a type the factors have no meaning; taking them for "default" would ignore them.
  if (!section.has(key) && section.has("factor")) return section.missing("rope_type");
  LONGHAUL_ASSIGN(const std::string type, section.text(key, "default"));
  if (type == "default") return {};
  if (type == "linear") {
    rope.scaling = RopeScaling::kLinear;
    LONGHAUL_ASSIGN(rope.factor, parse_factor(section));
    return {};
  }
  if (type != "llama3")
    return section.refused(key, *section.find(key), "supported are default, linear and llama3");
  rope.scaling = RopeScaling::kLlama3;
  LONGHAUL_ASSIGN(rope.factor, parse_factor(section));
  LONGHAUL_ASSIGN(rope.low_freq_factor, section.positive("low_freq_factor"));
  LONGHAUL_ASSIGN(rope.high_freq_factor, section.positive("high_freq_factor"));
  LONGHAUL_ASSIGN(rope.original_max_positions, section.positive("original_max_position_embeddings"));
  if (rope.low_freq_factor >= rope.high_freq_factor) {
    return section.wrong("low_freq_factor", *section.find("low_freq_factor"),
                         "expected less than high_freq_factor " + shown(*section.find("high_freq_factor")));
  }
  return {};
}

Status refuse_partial_rotation(const JsonSection& section) {
  LONGHAUL_ASSIGN(const double share, section.positive("partial_rotary_factor", 1.0));
  if (share == 1.0) return {};
  return section.refused("partial_rotary_factor", *section.find("partial_rotary_factor"), "supported is 1");
}

// transformers 5 keeps everything in rope_parameters, older files have rope_theta beside rope_scaling.
Status parse_rope(const JsonSection& file, RopeConfig& rope) {
  LONGHAUL_TRY(refuse_partial_rotation(file));
  JsonSection scaling(nullptr, file.source());
  std::optional<double> theta;
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const Json* value = file.find(key);
    if (!value) continue;
    if (!value->is_object()) return file.wrong(key, *value, "expected an object");
    JsonSection section(value, file.source(), std::string(key) + ".");
    LONGHAUL_TRY(refuse_partial_rotation(section));
    if (!theta && section.has("rope_theta")) {
      LONGHAUL_ASSIGN(theta, section.positive("rope_theta"));
    }
    if (!scaling.has("rope_type") && !scaling.has("type")) scaling = std::move(section);
  }
  if (!theta) {
    LONGHAUL_ASSIGN(theta, file.positive("rope_theta", 10000.0));
  }
  rope.theta = *theta;
  if (rope.theta < 1.0) {
    return corrupt_file(file.source() + ": rope_theta is " + std::to_string(rope.theta) +
                        ", expected at least 1");
  }
  return parse_scaling(scaling, rope);
}

// The names torch gives its types; some files write "torch.bfloat16".
std::optional<DType> parse_dtype(std::string_view name) {
  if (name.starts_with("torch.")) name.remove_prefix(6);
  if (name == "float32") return DType::kF32;
  if (name == "bfloat16") return DType::kBf16;
  if (name == "float16") return DType::kF16;
  if (name == "float64") return DType::kF64;
  return std::nullopt;
}

}  // namespace

AdaptedModel adapted_model(const ModelConfig& config) {
  return {.layers = config.layers,
          .hidden = config.hidden_size,
          .intermediate = config.intermediate_size,
          .q_size = config.heads * config.head_dim,
          .kv_size = config.kv_heads * config.head_dim};
}

const char* name_of(Architecture architecture) {
  for (const auto& [known, name] : kArchitectures) {
    if (known == architecture) return name;
  }
  return "?";
}

Result<ModelConfig> parse_config(const Json& json, std::string_view source) {
  if (!json.is_object())
    return corrupt_file(std::string(source) + ": is " + json.kind_name() + ", not an object");
  const JsonSection file(&json, std::string(source));
  ModelConfig config;
  LONGHAUL_ASSIGN(config.architecture, parse_architecture(file));
  LONGHAUL_TRY(parse_sizes(file, config));
  LONGHAUL_TRY(parse_layers(file, config));
  LONGHAUL_TRY(refuse_sliding_windows(file, config));
  LONGHAUL_TRY(parse_rope(file, config.rope));
  LONGHAUL_ASSIGN(const std::string dtype, file.text(file.has("dtype") ? "dtype" : "torch_dtype", ""));
  config.dtype = parse_dtype(dtype);
  return config;
}

Result<ModelConfig> load_config(const std::string& directory) {
  const std::string path = directory + "/config.json";
  LONGHAUL_ASSIGN(const Json json, read_json_file(path, kMaxConfigBytes));
  return parse_config(json, path);
}

std::vector<double> rope_frequencies(const ModelConfig& config) {
  const RopeConfig& rope = config.rope;
  std::vector<double> frequencies(static_cast<size_t>(config.head_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    double frequency =
        std::pow(rope.theta, -2.0 * static_cast<double>(i) / static_cast<double>(config.head_dim));
    if (rope.scaling == RopeScaling::kLinear) {
      frequency /= rope.factor;
    } else if (rope.scaling == RopeScaling::kLlama3) {
      const double wavelength = 2.0 * std::numbers::pi / frequency;
      const double long_wavelength = rope.original_max_positions / rope.low_freq_factor;
      const double short_wavelength = rope.original_max_positions / rope.high_freq_factor;
      if (wavelength > long_wavelength) {
        frequency /= rope.factor;
      } else if (wavelength >= short_wavelength) {
        const double smooth = (rope.original_max_positions / wavelength - rope.low_freq_factor) /
                              (rope.high_freq_factor - rope.low_freq_factor);
        frequency = (1.0 - smooth) * frequency / rope.factor + smooth * frequency;
      }
    }
    frequencies[i] = frequency;
  }
  return frequencies;
}

}  // namespace longhaul
