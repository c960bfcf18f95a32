#include "files/json.h"

#include <gtest/gtest.h>

#include <cmath>

#include "files/temporary_directory.h"

namespace longhaul {
namespace {

using std::string_literals::operator""s;

Json parsed(std::string_view text) {
  Result<Json> json = parse_json(text, "test.json");
  EXPECT_TRUE(json.ok()) << text << ": " << json.status().message();
  return json.ok() ? std::move(json.value()) : Json();
}

// The message that refuses `text`.
std::string refused(std::string_view text) {
  const Result<Json> json = parse_json(text, "dir/test.json");
  EXPECT_FALSE(json.ok()) << text;
  EXPECT_EQ(json.status().code(), Code::kCorruptFile) << text;
  EXPECT_NE(json.status().message().find("dir/test.json"), std::string::npos) << json.status().message();
  return json.status().message();
}

#define EXPECT_CONTAINS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

TEST(Json, ReadsEveryKindOfValue) {
  const Json json = parsed(R"( {"a": [1, -2.5, "x", true, false, null], "b": {"c": {}}, "": []} )");
  ASSERT_TRUE(json.is_object());
  ASSERT_EQ(json.members().size(), 3u);
  EXPECT_EQ(json.members()[0].name, "a");  // in the order of the file
  EXPECT_EQ(json.members()[1].name, "b");
  EXPECT_EQ(json.members()[2].name, "");
  const std::vector<Json>& items = json.find("a")->items();
  ASSERT_EQ(items.size(), 6u);
  EXPECT_EQ(items[0].as_int64(), 1);
  EXPECT_EQ(items[0].as_double(), 1.0);
  EXPECT_EQ(items[1].as_double(), -2.5);
  EXPECT_EQ(items[1].as_int64(), std::nullopt);
  EXPECT_EQ(*items[2].as_string(), "x");
  EXPECT_EQ(items[3].as_bool(), true);
  EXPECT_EQ(items[4].as_bool(), false);
  EXPECT_TRUE(items[5].is_null());
  EXPECT_TRUE(json.find("b")->find("c")->members().empty());
  EXPECT_EQ(json.find("absent"), nullptr);
}

TEST(Json, ConvertsNothingBetweenKinds) {
  const Json text = parsed(R"("1")");
  EXPECT_EQ(text.as_int64(), std::nullopt);
  EXPECT_EQ(text.as_double(), std::nullopt);
  EXPECT_EQ(text.as_bool(), std::nullopt);
  EXPECT_TRUE(text.items().empty());
  EXPECT_TRUE(text.members().empty());
  EXPECT_EQ(text.find("1"), nullptr);
  EXPECT_EQ(parsed("0").as_bool(), std::nullopt);
  EXPECT_EQ(parsed("1").as_string(), nullptr);
  EXPECT_STREQ(parsed("[]").kind_name(), "an array");
}

TEST(Json, KeepsIntegersExact) {
  EXPECT_EQ(parsed("9223372036854775807").as_int64(), INT64_MAX);
  EXPECT_EQ(parsed("-9223372036854775808").as_int64(), INT64_MIN);
  EXPECT_EQ(parsed("9007199254740993").as_int64(), 9007199254740993);  // 2^53 + 1, no double
  EXPECT_EQ(parsed("9223372036854775808").as_int64(), std::nullopt);
  EXPECT_EQ(parsed("9223372036854775808").as_double(), 0x1p63);
  EXPECT_EQ(parsed("8.0").as_int64(), 8);
  EXPECT_EQ(parsed("1e3").as_int64(), 1000);
  EXPECT_EQ(parsed("1e300").as_int64(), std::nullopt);
  EXPECT_EQ(parsed("-0").as_int64(), 0);
  EXPECT_TRUE(std::signbit(*parsed("-0.0").as_double()));
  EXPECT_EQ(parsed("1e-06").as_double(), 1e-6);
  EXPECT_EQ(parsed("2.5E+2").as_double(), 250.0);
}

TEST(Json, RefusesWhatIsNoNumber) {
  for (const char* text :
       {"01", "+1", "-", ".5", "1.", "1e", "1e+", "0x10", "NaN", "Infinity", "-Infinity", "1_000"}) {
    refused(text);
  }
  EXPECT_CONTAINS(refused("1e400"), "range");
}

TEST(Json, DecodesEscapes) {
  EXPECT_EQ(*parsed(R"("\"\\\/\b\f\n\r\t")").as_string(), "\"\\/\b\f\n\r\t");
  EXPECT_EQ(*parsed(R"("\u0041\u00e9\u20AC\ud83d\ude00")").as_string(),
            "A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
  EXPECT_EQ(*parsed(R"("\u0000")").as_string(), "\0"s);
  EXPECT_EQ(*parsed("\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"").as_string(),
            "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
}

TEST(Json, RefusesBadEscapes) {
  EXPECT_CONTAINS(refused(R"("\ud83d")"), "surrogate");
  EXPECT_CONTAINS(refused(R"("\ud83dx")"), "surrogate");
  EXPECT_CONTAINS(refused(R"("\ud83d\ud83d")"), "surrogate");
  EXPECT_CONTAINS(refused(R"("\ude00")"), "surrogate");
  EXPECT_CONTAINS(refused(R"("\u12")"), "hexadecimal");
  EXPECT_CONTAINS(refused(R"("\u12g4")"), "hexadecimal");
  EXPECT_CONTAINS(refused(R"("\u-123")"), "hexadecimal");
  EXPECT_CONTAINS(refused("\"\\u"), "hexadecimal");
  EXPECT_CONTAINS(refused(R"("\x41")"), "escape");
  EXPECT_CONTAINS(refused("\"\\"), "escape");
}

TEST(Json, RefusesInvalidUtf8) {
  const std::string bad[] = {
      "\x80",              // a tail without a start
      "\xc3",              // cut short
      "\xc0\xaf",          // overlong '/'
      "\xe0\x80\xaf",      // overlong
      "\xf0\x80\x80\xaf",  // overlong
      "\xed\xa0\x80",      // a surrogate
      "\xf4\x90\x80\x80",  // above U+10FFFF
      "\xff",
  };
  for (const std::string& bytes : bad) EXPECT_CONTAINS(refused("\"" + bytes + "\""), "UTF-8");
}

TEST(Json, RefusesMalformedStructure) {
  for (const char* text :
       {"",           " ",     "{",       "[",     "[1",  "[1,", "[1,]", "[,1]",  "{\"a\"}", "{\"a\":}",
        "{\"a\":1,}", "{a:1}", "{'a':1}", "[1 2]", "1 2", "tru", "nul",  "\"abc", "[1]]",    "// x\n1"}) {
    refused(text);
  }
  refused("\xef\xbb\xbf{}");  // byte order mark
  refused("\"a\nb\"");
  refused("\0"s);
}

TEST(Json, RefusesTheSameNameTwice) {
  EXPECT_CONTAINS(refused(R"({"a": 1, "b": 2, "a": 3})"), "\"a\"");
  EXPECT_CONTAINS(refused(R"({"a": 1, "\u0061": 3})"), "\"a\"");
  parsed(R"([{"a": 1}, {"a": {"a": 2}}])");
}

TEST(Json, SaysWhere) {
  EXPECT_CONTAINS(refused("{\n  \"a\": 1,\n  \"b\" 2\n}"), "line 3, column 7");
}

TEST(Json, LimitsDepth) {
  const auto nested = [](int levels) { return std::string(levels, '[') + std::string(levels, ']'); };
  parsed(nested(kJsonMaxDepth));
  EXPECT_CONTAINS(refused(nested(kJsonMaxDepth + 1)), "levels");
  EXPECT_CONTAINS(refused(std::string(1000000, '[')), "levels");
  std::string objects;
  for (int i = 0; i < 100000; ++i) objects += "{\"a\":";
  EXPECT_CONTAINS(refused(objects), "levels");
}

TEST(Json, LimitsValues) {
  std::string text = "[";
  for (size_t i = 0; i < kJsonMaxValues; ++i) text += "0,";
  text.back() = ']';
  EXPECT_CONTAINS(refused(text), "values");
  text.erase(1, 2);  // one value fewer leaves room for the array itself
  EXPECT_EQ(parsed(text).items().size(), kJsonMaxValues - 1);
}

TEST(Json, QuotesStrings) {
  EXPECT_EQ(json_quote("a\"b\\c\n\x01\x7f"), R"("a\"b\\c\n\u0001\u007f")");
  EXPECT_EQ(json_quote("\xc3\xa9"), "\"\xc3\xa9\"");
  EXPECT_EQ(json_quote("\xff\xc3"), "\"\xef\xbf\xbd\xef\xbf\xbd\"");
  std::string all;
  for (int c = 0; c < 128; ++c) all.push_back(static_cast<char>(c));
  EXPECT_EQ(*parsed(json_quote(all)).as_string(), all);
}

TEST(Json, ShortensLongNamesInMessages) {
  EXPECT_EQ(quote_for_message("model.norm.weight"), "\"model.norm.weight\"");
  const std::string kept(119, 'a');
  const std::string name = kept + "\xc3\xa9" + std::string(5000, 'b');
  EXPECT_EQ(quote_for_message(name), json_quote(kept) + "...");
  std::string text = "{";
  text += json_quote(std::string(100000, 'k'));
  text += " 1}";
  EXPECT_LT(refused(text).size(), 400u);
}

TEST(Json, ReadsFiles) {
  const TemporaryDirectory directory;
  const std::string path = directory.write("x.json", "{\"a\": 7}");
  const Result<Json> json = read_json_file(path, 8);
  ASSERT_TRUE(json.ok()) << json.status().message();
  EXPECT_EQ(json.value().find("a")->as_int64(), 7);
  const Result<Json> large = read_json_file(path, 7);
  EXPECT_EQ(large.status().code(), Code::kCorruptFile);
  EXPECT_CONTAINS(large.status().message(), path);
  EXPECT_EQ(read_json_file(directory.write("empty.json", ""), 8).status().code(), Code::kCorruptFile);
  EXPECT_EQ(read_json_file(directory.path() + "/none.json", 8).status().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace longhaul
