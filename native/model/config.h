// What config.json says about a model, checked: the only place that knows Hugging Face's keys.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"
#include "core/status.h"
#include "files/json.h"
#include "mole/adapter.h"

namespace longhaul {

enum class Architecture : uint8_t { kLlama, kMistral, kQwen2, kQwen3 };

enum class RopeScaling : uint8_t {
  kNone,
  kLinear,  // every frequency divided by `factor`
  kLlama3,  // long wavelengths divided by `factor`, short ones kept, a blend between
};

struct RopeConfig {
  double theta = 10000.0;
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;
  // Only kLlama3 has these three: wavelengths, in positions, are compared with original_max_positions /
  // *_freq_factor.
  double low_freq_factor = 0.0;
  double high_freq_factor = 0.0;
  double original_max_positions = 0.0;
};

// Every size is positive and so limited that the bytes of any weight and of a full KV cache fit int64_t.
struct ModelConfig {
  Architecture architecture = Architecture::kLlama;
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;       // divides heads
  int64_t head_dim = 0;       // even, 8 .. 256; heads * head_dim need not be hidden_size
  int64_t max_positions = 0;  // positions the model was trained for
  double rms_norm_eps = 0.0;
  bool tie_word_embeddings = false;  // lm_head is the embedding matrix
  bool qkv_bias = false;
  bool o_bias = false;
  bool mlp_bias = false;
  bool qk_norm = false;        // RMS norm of every head's q and k before RoPE
  std::optional<DType> dtype;  // what the file says of the weights; the checkpoint's own dtypes decide
  RopeConfig rope;
};

const char* name_of(Architecture architecture);

// The sizes that adapters of this model have.
AdaptedModel adapted_model(const ModelConfig& config);

// `source` (a path) names the file in messages. kUnsupported: a model this engine does not run (another
// architecture, rope type, activation, sliding window, quantised weights). kCorruptFile: a value missing, of
// the wrong kind, out of range or at odds with another. Both name the key and the value.
Result<ModelConfig> parse_config(const Json& json, std::string_view source = "config.json");

// parse_config of `directory`/config.json.
Result<ModelConfig> load_config(const std::string& directory);

// [head_dim / 2] angles in radians per position, dimension pair 0 first: theta^(-2i / head_dim), scaled. The
// llama3 rule is that of transformers' modeling_rope_utils.
std::vector<double> rope_frequencies(const ModelConfig& config);

}  // namespace longhaul
