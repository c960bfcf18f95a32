// Any configuration with any file is a complete adapter of its model, or refused. The input: a JSON text, a NUL
// byte, then safetensors or torch.save's zip.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "mole/adapter_file.h"

// Keeps the compiler from leaving the reads out.
volatile unsigned checksum;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace longhaul;
  const std::string_view text(reinterpret_cast<const char*>(data), std::find(data, data + size, 0) - data);
  const auto json = parse_json(text, "fuzz");
  if (!json.ok()) return 0;
  const auto config = parse_adapter_config(json.value(), "fuzz");
  if (!config.ok()) return 0;
  const auto rest = std::as_bytes(std::span(data, size)).subspan(std::min(size, text.size() + 1));
  const auto tensors = AdapterTensors::parse(rest, "fuzz");
  if (!tensors.ok()) return 0;
  const AdaptedModel model = {.layers = 1, .hidden = 4, .intermediate = 6, .q_size = 4, .kv_size = 2};
  const auto adapter = read_adapter(config.value(), tensors.value(), model);
  if (!adapter.ok()) {
    const Code code = adapter.status().code();
    if (code != Code::kCorruptFile && code != Code::kUnsupported) __builtin_trap();
    return 0;
  }
  if (!check(adapter.value(), model).ok()) __builtin_trap();
  unsigned sum = 0;
  for (int i = 0; i < kProjections; ++i) {
    const ProjectionAdapter& part = adapter.value().layers[0][static_cast<Projection>(i)];
    for (const Tensor& tensor : {part.a, part.b, part.magnitude, part.router}) {
      // Reads the bytes under the sanitizer.
      for (int64_t b = 0; tensor && b < tensor.bytes(); ++b) sum += tensor.as<uint8_t>()[b];
    }
  }
  checksum = sum;
  return 0;
}
