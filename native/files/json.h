// A strict JSON reader (RFC 8259) for files from outside, and the string escaping of a JSON writer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/status.h"

namespace longhaul {

class Json {
 public:
  enum class Kind : uint8_t { kNull, kBool, kNumber, kString, kArray, kObject };
  struct Member;
  struct Number {
    double value = 0;
    std::optional<int64_t> integer;  // exact, also past 2^53
  };

  Json() = default;
  explicit Json(bool value);
  explicit Json(Number value);
  explicit Json(std::string value);
  explicit Json(std::vector<Json> items);
  explicit Json(std::vector<Member> members);

  Kind kind() const { return static_cast<Kind>(value_.index()); }
  const char* kind_name() const;
  bool is_null() const { return kind() == Kind::kNull; }
  bool is_array() const { return kind() == Kind::kArray; }
  bool is_object() const { return kind() == Kind::kObject; }

  // Nothing when the value is of another kind; no conversion between kinds.
  std::optional<bool> as_bool() const;
  std::optional<double> as_double() const;
  // Also nothing when the number has a fraction or does not fit. 8.0 and 1e3 are integers.
  std::optional<int64_t> as_int64() const;
  const std::string* as_string() const { return std::get_if<std::string>(&value_); }

  // In the order of the file; empty when the value is of another kind.
  const std::vector<Json>& items() const;
  const std::vector<Member>& members() const;
  // The member `name`, null when there is none or this is no object. Looks through all members: read large
  // objects through members().
  const Json* find(std::string_view name) const;

 private:
  // The order is that of Kind.
  std::variant<std::monostate, bool, Number, std::string, std::vector<Json>, std::vector<Member>> value_;
};

struct Json::Member {
  std::string name;
  Json value;
};

inline constexpr int kJsonMaxDepth = 64;
// A value takes about 40 bytes where its text can take two: the limit keeps a hostile file from multiplying.
inline constexpr size_t kJsonMaxValues = size_t{1} << 22;

// Parses one JSON text. Refuses with kCorruptFile, naming `source` (a path), line and column: anything RFC 8259
// does not allow (so also NaN, Infinity, comments, a byte order mark), invalid UTF-8, lone surrogates, a name
// twice in one object, numbers outside the range of double, more than kJsonMaxDepth levels or kJsonMaxValues
// values.
Result<Json> parse_json(std::string_view text, std::string_view source);

// Reads and parses a file of at most `max_bytes`.
Result<Json> read_json_file(const std::string& path, size_t max_bytes);

// `text` as a JSON string with its quotes. Bytes that are not UTF-8 become U+FFFD, so the result is always
// JSON.
std::string json_quote(std::string_view text);

// json_quote of at most the first 120 bytes: how a name from a hostile file enters an error message.
std::string quote_for_message(std::string_view text);

}  // namespace longhaul
