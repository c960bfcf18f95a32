#include "files/json_section.h"

#include <cstdio>

namespace longhaul {

std::string shown(const Json& json) {
  if (const std::string* text = json.as_string()) return quote_for_message(*text);
  if (const std::optional<int64_t> integer = json.as_int64()) return std::to_string(*integer);
  if (const std::optional<double> number = json.as_double()) {
    char text[32];
    std::snprintf(text, sizeof text, "%g", *number);
    return text;
  }
  if (const std::optional<bool> flag = json.as_bool()) return *flag ? "true" : "false";
  return json.kind_name();
}

}  // namespace longhaul
