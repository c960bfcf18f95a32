// Any bytes are JSON or refused, and a string that was read comes back the same through json_quote.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "files/json.h"

namespace longhaul {
namespace {

void check_strings(const Json& json) {
  if (const std::string* text = json.as_string()) {
    const Result<Json> again = parse_json(json_quote(*text), "fuzz");
    if (!again.ok() || *again.value().as_string() != *text) __builtin_trap();
  }
  for (const Json& item : json.items()) check_strings(item);
  for (const Json::Member& member : json.members()) {
    if (json.find(member.name) != &member.value) __builtin_trap();
    check_strings(member.value);
  }
}

}  // namespace
}  // namespace longhaul

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const longhaul::Result<longhaul::Json> json = longhaul::parse_json(text, "fuzz");
  if (json.ok()) longhaul::check_strings(json.value());
  // Any bytes quoted are JSON.
  if (!longhaul::parse_json(longhaul::json_quote(text), "fuzz").ok()) __builtin_trap();
  if (!longhaul::parse_json(longhaul::json_quote(longhaul::quote_for_message(text)), "fuzz").ok())
    __builtin_trap();
  return 0;
}
