// Any JSON is a config whose sizes keep their promises, or refused.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "model/config.h"

namespace longhaul {
namespace {

bool keeps_promises(const ModelConfig& config) {
  const int64_t sizes[] = {config.vocab_size, config.hidden_size,  config.intermediate_size,
                           config.layers,     config.heads,        config.kv_heads,
                           config.head_dim,   config.max_positions};
  for (const int64_t size : sizes) {
    if (size <= 0) return false;
  }
  if (config.heads % config.kv_heads != 0 || config.head_dim % 2 != 0) return false;
  if (config.head_dim < 8 || config.head_dim > 256 || !(config.rms_norm_eps > 0)) return false;
  int64_t bytes = 16;  // k and v of at most 8 bytes
  for (const int64_t factor : {config.layers, config.kv_heads, config.head_dim, config.max_positions}) {
    if (__builtin_mul_overflow(bytes, factor, &bytes)) return false;
  }
  for (const double frequency : rope_frequencies(config)) {
    if (!(frequency >= 0) || !std::isfinite(frequency)) return false;
  }
  return true;
}

}  // namespace
}  // namespace longhaul

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto json = longhaul::parse_json({reinterpret_cast<const char*>(data), size}, "fuzz");
  if (!json.ok()) return 0;
  const auto config = longhaul::parse_config(json.value(), "fuzz");
  if (config.ok() && !longhaul::keeps_promises(config.value())) __builtin_trap();
  return 0;
}
