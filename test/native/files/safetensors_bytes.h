// A safetensors file in memory from its header and data, right or wrong.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace longhaul {

inline std::string safetensors_bytes(std::string_view header, std::string_view data) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(uint64_t{header.size()} >> (8 * i)));
  bytes.append(header);
  bytes.append(data);
  return bytes;
}

inline std::span<const std::byte> as_bytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}

}  // namespace longhaul
