#include "files/json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <system_error>

#include "files/mapped_file.h"

namespace longhaul {

Json::Json(bool value) : value_(value) {}
Json::Json(Number value) : value_(value) {}
Json::Json(std::string value) : value_(std::move(value)) {}
Json::Json(std::vector<Json> items) : value_(std::move(items)) {}
Json::Json(std::vector<Member> members) : value_(std::move(members)) {}

const char* Json::kind_name() const {
  switch (kind()) {
    case Kind::kNull:
      return "null";
    case Kind::kBool:
      return "a boolean";
    case Kind::kNumber:
      return "a number";
    case Kind::kString:
      return "a string";
    case Kind::kArray:
      return "an array";
    case Kind::kObject:
      return "an object";
  }
  return "?";
}

std::optional<bool> Json::as_bool() const {
  const bool* value = std::get_if<bool>(&value_);
  return value ? std::optional<bool>(*value) : std::nullopt;
}

std::optional<double> Json::as_double() const {
  const Number* number = std::get_if<Number>(&value_);
  return number ? std::optional<double>(number->value) : std::nullopt;
}

std::optional<int64_t> Json::as_int64() const {
  const Number* number = std::get_if<Number>(&value_);
  return number ? number->integer : std::nullopt;
}

const std::vector<Json>& Json::items() const {
  static const std::vector<Json> none;
  const auto* items = std::get_if<std::vector<Json>>(&value_);
  return items ? *items : none;
}

const std::vector<Json::Member>& Json::members() const {
  static const std::vector<Member> none;
  const auto* members = std::get_if<std::vector<Member>>(&value_);
  return members ? *members : none;
}

const Json* Json::find(std::string_view name) const {
  for (const Member& member : members()) {
    if (member.name == name) return &member.value;
  }
  return nullptr;
}

namespace {

// Bytes of the valid UTF-8 character at the start of `text` (Unicode 15, table 3-7), 0 when there is none.
size_t utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const auto tail = [&](size_t i) { return byte(i) >= 0x80 && byte(i) <= 0xbf; };
  const unsigned first = byte(0);
  if (text.empty()) return 0;
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first <= 0xdf) return tail(1) ? 2 : 0;
  if (first >= 0xe0 && first <= 0xef) {
    const unsigned low = first == 0xe0 ? 0xa0 : 0x80;   // no overlong forms
    const unsigned high = first == 0xed ? 0x9f : 0xbf;  // no surrogates
    return byte(1) >= low && byte(1) <= high && tail(2) ? 3 : 0;
  }
  if (first >= 0xf0 && first <= 0xf4) {
    const unsigned low = first == 0xf0 ? 0x90 : 0x80;
    const unsigned high = first == 0xf4 ? 0x8f : 0xbf;  // nothing above U+10FFFF
    return byte(1) >= low && byte(1) <= high && tail(2) && tail(3) ? 4 : 0;
  }
  return 0;
}

void append_utf8(std::string& out, uint32_t point) {
  const auto put = [&](uint32_t bits) { out.push_back(static_cast<char>(bits)); };
  if (point < 0x80) {
    put(point);
  } else if (point < 0x800) {
    put(0xc0 | (point >> 6));
    put(0x80 | (point & 0x3f));
  } else if (point < 0x10000) {
    put(0xe0 | (point >> 12));
    put(0x80 | ((point >> 6) & 0x3f));
    put(0x80 | (point & 0x3f));
  } else {
    put(0xf0 | (point >> 18));
    put(0x80 | ((point >> 12) & 0x3f));
    put(0x80 | ((point >> 6) & 0x3f));
    put(0x80 | (point & 0x3f));
  }
}

// Recursive descent. Every parse_* returns false after fail().
class Parser {
 public:
  Parser(std::string_view text, std::string_view source) : text_(text), source_(source) {}

  Result<Json> parse() {
    Json json;
    if (!parse_value(json, 1)) return status();
    skip_space();
    if (at_ < text_.size()) {
      fail("expected the end of the file");
      return status();
    }
    return json;
  }

 private:
  bool fail(std::string what) {
    error_ = std::move(what);
    return false;
  }

  Status status() const {
    const std::string_view before = text_.substr(0, at_);
    const size_t line = static_cast<size_t>(std::count(before.begin(), before.end(), '\n')) + 1;
    const size_t line_start = before.rfind('\n') + 1;  // npos + 1 is 0
    return corrupt_file(std::string(source_) + ": not valid JSON at line " + std::to_string(line) +
                        ", column " + std::to_string(at_ - line_start + 1) + ": " + error_);
  }

  bool at_end() const { return at_ >= text_.size(); }
  char peek() const { return at_end() ? '\0' : text_[at_]; }
  bool take(char c) {
    if (at_end() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void skip_space() {
    while (!at_end() && (peek() == ' ' || peek() == '\n' || peek() == '\r' || peek() == '\t')) ++at_;
  }

  bool parse_value(Json& out, int depth) {
    if (depth > kJsonMaxDepth) return fail("more than " + std::to_string(kJsonMaxDepth) + " levels");
    if (++values_ > kJsonMaxValues) return fail("more than " + std::to_string(kJsonMaxValues) + " values");
    skip_space();
    switch (peek()) {
      case '{':
        return parse_object(out, depth);
      case '[':
        return parse_array(out, depth);
      case '"': {
        std::string text;
        if (!parse_string(text)) return false;
        out = Json(std::move(text));
        return true;
      }
      case 't':
        return parse_word("true", Json(true), out);
      case 'f':
        return parse_word("false", Json(false), out);
      case 'n':
        return parse_word("null", Json(), out);
      default:
        return parse_number(out);
    }
  }

  bool parse_word(std::string_view word, Json value, Json& out) {
    if (text_.substr(at_, word.size()) != word) return fail("expected a value");
    at_ += word.size();
    out = std::move(value);
    return true;
  }

  bool parse_object(Json& out, int depth) {
    std::vector<Json::Member> members;
    ++at_;
    skip_space();
    if (!take('}')) {
      do {
        skip_space();
        if (peek() != '"') return fail("expected a name in double quotes");
        Json::Member& member = members.emplace_back();
        if (!parse_string(member.name)) return false;
        skip_space();
        if (!take(':')) return fail("expected ':' after " + quote_for_message(member.name));
        if (!parse_value(member.value, depth + 1)) return false;
        skip_space();
      } while (take(','));
      if (!take('}')) return fail("expected ',' or '}'");
    }
    if (!names_differ(members)) return false;
    out = Json(std::move(members));
    return true;
  }

  // A name twice means different things to different readers, so one of them can be lied to.
  bool names_differ(const std::vector<Json::Member>& members) {
    std::vector<std::string_view> names;
    names.reserve(members.size());
    for (const Json::Member& member : members) names.push_back(member.name);
    std::sort(names.begin(), names.end());
    const auto twice = std::adjacent_find(names.begin(), names.end());
    return twice == names.end() ||
           fail("the object that ends here has two members " + quote_for_message(*twice));
  }

  bool parse_array(Json& out, int depth) {
    std::vector<Json> items;
    ++at_;
    skip_space();
    if (!take(']')) {
      do {
        if (!parse_value(items.emplace_back(), depth + 1)) return false;
        skip_space();
      } while (take(','));
      if (!take(']')) return fail("expected ',' or ']'");
    }
    out = Json(std::move(items));
    return true;
  }

  bool parse_string(std::string& out) {
    ++at_;
    while (true) {
      if (at_end()) return fail("the text ends inside a string");
      const unsigned char c = static_cast<unsigned char>(text_[at_]);
      if (c == '"') {
        ++at_;
        return true;
      }
      if (c == '\\') {
        if (!parse_escape(out)) return false;
      } else if (c < 0x20) {
        return fail("a control character in a string must be escaped");
      } else {
        const size_t length = utf8_length(text_.substr(at_));
        if (length == 0) return fail("invalid UTF-8 in a string");
        out.append(text_.substr(at_, length));
        at_ += length;
      }
    }
  }

  bool parse_escape(std::string& out) {
    ++at_;
    const char c = peek();
    static constexpr std::string_view kLetters = "\"\\/bfnrt";
    static constexpr std::string_view kMeanings = "\"\\/\b\f\n\r\t";
    if (const size_t which = kLetters.find(c); !at_end() && which != std::string_view::npos) {
      out.push_back(kMeanings[which]);
      ++at_;
      return true;
    }
    if (c != 'u') return fail("unknown escape in a string");
    uint32_t point = 0;
    if (!parse_hex(point)) return false;
    if (point >= 0xdc00 && point <= 0xdfff) return fail("\\u escape of a low surrogate without a high one");
    if (point >= 0xd800 && point <= 0xdbff) {
      uint32_t low = 0;
      if (!take('\\') || peek() != 'u' || !parse_hex(low) || low < 0xdc00 || low > 0xdfff) {
        return fail("\\u escape of a high surrogate without a low one");
      }
      point = 0x10000 + ((point - 0xd800) << 10) + (low - 0xdc00);
    }
    append_utf8(out, point);
    return true;
  }

  // The four digits after the 'u' at the current place.
  bool parse_hex(uint32_t& out) {
    const std::string_view digits = text_.substr(std::min(at_ + 1, text_.size()), 4);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), out, 16);
    if (digits.size() != 4 || error != std::errc() || end != digits.data() + 4) {
      return fail("\\u needs four hexadecimal digits");
    }
    at_ += 5;
    return true;
  }

  bool parse_digits() {
    const size_t start = at_;
    while (!at_end() && peek() >= '0' && peek() <= '9') ++at_;
    return at_ > start;
  }

  bool parse_number(Json& out) {
    const size_t start = at_;
    bool is_integer_literal = true;
    take('-');
    if (!take('0') && !parse_digits()) return fail("expected a value");
    if (take('.')) {
      is_integer_literal = false;
      if (!parse_digits()) return fail("expected a digit after the decimal point");
    }
    if (take('e') || take('E')) {
      is_integer_literal = false;
      if (!take('+')) take('-');
      if (!parse_digits()) return fail("expected a digit in the exponent");
    }
    // std::from_chars accepts a superset of JSON's grammar, which was checked above, and no locale changes it.
    const char* begin = text_.data() + start;
    const char* end = text_.data() + at_;
    Json::Number number;
    if (std::from_chars(begin, end, number.value).ec != std::errc()) {
      return fail("a number outside the range of double");
    }
    if (is_integer_literal) {
      int64_t integer = 0;
      if (std::from_chars(begin, end, integer).ec == std::errc()) number.integer = integer;
    } else if (std::fabs(number.value) <= 0x1p53 && number.value == std::trunc(number.value)) {
      number.integer = static_cast<int64_t>(number.value);
    }
    out = Json(number);
    return true;
  }

  std::string_view text_;
  std::string_view source_;
  size_t at_ = 0;
  size_t values_ = 0;
  std::string error_;
};

}  // namespace

Result<Json> parse_json(std::string_view text, std::string_view source) {
  return Parser(text, source).parse();
}

Result<Json> read_json_file(const std::string& path, size_t max_bytes) {
  LONGHAUL_ASSIGN(const MappedFile file, MappedFile::open(path));
  const std::span<const std::byte> bytes = file.bytes();
  if (bytes.size() > max_bytes) {
    return corrupt_file(path + ": has " + std::to_string(bytes.size()) + " bytes, more than the " +
                        std::to_string(max_bytes) + " such a file may have; is it the right file?");
  }
  return parse_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path);
}

std::string json_quote(std::string_view text) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string out = "\"";
  for (size_t at = 0; at < text.size();) {
    const unsigned char c = static_cast<unsigned char>(text[at]);
    const size_t length = utf8_length(text.substr(at));
    if (length == 0) {
      out += "\xef\xbf\xbd";
    } else if (c == '"' || c == '\\') {
      out.push_back('\\');
      out.push_back(static_cast<char>(c));
    } else if (c == '\n') {
      out += "\\n";
    } else if (c < 0x20 || c == 0x7f) {
      out += "\\u00";
      out.push_back(kHex[c >> 4]);
      out.push_back(kHex[c & 15]);
    } else {
      out.append(text.substr(at, length));
    }
    at += std::max<size_t>(length, 1);
  }
  out.push_back('"');
  return out;
}

std::string quote_for_message(std::string_view text) {
  constexpr size_t kMost = 120;
  if (text.size() <= kMost) return json_quote(text);
  size_t end = 0;
  // Whole characters only: half of one would show as U+FFFD.
  while (end < kMost) {
    const size_t length = std::max<size_t>(utf8_length(text.substr(end)), 1);
    if (end + length > kMost) break;
    end += length;
  }
  return json_quote(text.substr(0, end)) + "...";
}

}  // namespace longhaul
