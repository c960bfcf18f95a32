// Typed values of one object of a JSON file, refused with a message that names the key and the value.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "core/status.h"
#include "files/json.h"

namespace longhaul {

// The value as it stands in the file, as far as a message needs it.
std::string shown(const Json& json);

// A member that is null counts as absent: Python writes None for "not set". `json` may be null: an object
// without members. `prefix` goes before keys in messages ("rope_scaling.").
class JsonSection {
 public:
  JsonSection(const Json* json, std::string source, std::string prefix = "")
      : json_(json), source_(std::move(source)), prefix_(std::move(prefix)) {}

  const Json* find(std::string_view key) const {
    const Json* value = json_ ? json_->find(key) : nullptr;
    return value && !value->is_null() ? value : nullptr;
  }
  bool has(std::string_view key) const { return find(key) != nullptr; }

  Result<int64_t> integer(std::string_view key, int64_t least, int64_t most,
                          std::optional<int64_t> otherwise = std::nullopt) const {
    const Json* value = find(key);
    if (!value) return otherwise ? Result<int64_t>(*otherwise) : Result<int64_t>(missing(key));
    const std::optional<int64_t> integer = value->as_int64();
    if (!integer || *integer < least || *integer > most) {
      return wrong(key, *value,
                   "expected a whole number from " + std::to_string(least) + " to " + std::to_string(most));
    }
    return *integer;
  }

  Result<double> positive(std::string_view key, std::optional<double> otherwise = std::nullopt) const {
    const Json* value = find(key);
    if (!value) return otherwise ? Result<double>(*otherwise) : Result<double>(missing(key));
    const std::optional<double> number = value->as_double();
    if (!number || !(*number > 0)) return wrong(key, *value, "expected a positive number");
    return *number;
  }

  Result<bool> flag(std::string_view key) const {
    const Json* value = find(key);
    if (!value) return false;
    const std::optional<bool> flag = value->as_bool();
    if (!flag) return wrong(key, *value, "expected true or false");
    return *flag;
  }

  Result<std::string> text(std::string_view key, std::string otherwise) const {
    const Json* value = find(key);
    if (!value) return otherwise;
    if (!value->as_string()) return wrong(key, *value, "expected a string");
    return *value->as_string();
  }

  Status missing(std::string_view key) const {
    return corrupt_file(source_ + ": " + full(key) + " is missing");
  }
  Status wrong(std::string_view key, const Json& value, const std::string& what) const {
    return corrupt_file(source_ + ": " + full(key) + " is " + shown(value) + ", " + what);
  }
  Status refused(std::string_view key, const Json& value, const std::string& what) const {
    return unsupported(source_ + ": " + full(key) + " " + shown(value) + " is not supported; " + what);
  }

  const std::string& source() const { return source_; }

 private:
  std::string full(std::string_view key) const { return prefix_ + std::string(key); }

  const Json* json_;
  std::string source_;
  std::string prefix_;
};

}  // namespace longhaul
