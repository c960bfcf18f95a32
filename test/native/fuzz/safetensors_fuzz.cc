// Any bytes are a safetensors file whose tensors tile its data, or refused.
#include <cstddef>
#include <cstdint>
#include <span>

#include "files/safetensors.h"

// Keeps the compiler from leaving the reads out.
volatile unsigned checksum;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto entries = longhaul::parse_safetensors(std::as_bytes(std::span(data, size)), "fuzz");
  if (!entries.ok()) {
    if (entries.status().code() != longhaul::Code::kCorruptFile) __builtin_trap();
    return 0;
  }
  size_t end = 0;
  unsigned sum = 0;
  for (const longhaul::TensorEntry& entry : entries.value()) {
    if (end != 0 && entry.offset != end) __builtin_trap();
    end = entry.offset + entry.bytes;
    if (end > size || entry.shape.size() > longhaul::kSafetensorsMaxRank) __builtin_trap();
    // Reads the bytes under the sanitizer.
    for (size_t i = entry.offset; i < end; ++i) sum += data[i];
    int64_t stride = 1;
    for (const int64_t extent : entry.shape) stride *= extent > 0 ? extent : 1;
    if (stride < 0) __builtin_trap();
  }
  if (!entries.value().empty() && end != size) __builtin_trap();
  checksum = sum;
  return 0;
}
