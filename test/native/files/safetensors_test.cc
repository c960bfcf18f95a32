#include "files/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>

#include "files/safetensors_bytes.h"
#include "files/temporary_directory.h"

namespace longhaul {
namespace {

const std::string kData(64, '\x11');

// The message that refuses a file.
std::string refused(const std::string& bytes) {
  const auto entries = parse_safetensors(as_bytes(bytes), "dir/x.safetensors");
  EXPECT_FALSE(entries.ok());
  EXPECT_EQ(entries.status().code(), Code::kCorruptFile);
  EXPECT_NE(entries.status().message().find("dir/x.safetensors"), std::string::npos)
      << entries.status().message();
  return entries.status().message();
}

std::string refused(std::string_view header, std::string_view data) {
  return refused(safetensors_bytes(header, data));
}

// One tensor "w" with these fields and 64 bytes of data.
std::string refused_tensor(std::string_view fields) {
  std::string header = "{\"w\":{";
  header += fields;
  header += "}}";
  const std::string message = refused(header, kData);
  EXPECT_NE(message.find("tensor \"w\""), std::string::npos) << message;
  return message;
}

#define EXPECT_CONTAINS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

TEST(Safetensors, ReadsTensorsInTheOrderOfTheirBytes) {
  const std::string header = R"({"__metadata__":{"format":"pt"},)"
                             R"("b":{"dtype":"BF16","shape":[2,3],"data_offsets":[8,20]},)"
                             R"("scalar":{"dtype":"F32","shape":[],"data_offsets":[20,24]},)"
                             R"("empty":{"dtype":"F32","shape":[0],"data_offsets":[24,24]},)"
                             R"("a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}   )";
  const std::string bytes = safetensors_bytes(header, std::string(24, 'x'));
  const auto result = parse_safetensors(as_bytes(bytes), "x");
  ASSERT_TRUE(result.ok()) << result.status().message();
  const std::vector<TensorEntry>& entries = result.value();
  ASSERT_EQ(entries.size(), 4u);
  const size_t data_begin = 8 + header.size();
  EXPECT_EQ(entries[0].name, "a");
  EXPECT_EQ(entries[0].format_dtype, "I64");
  EXPECT_EQ(entries[0].dtype, std::nullopt);
  EXPECT_EQ(entries[0].offset, data_begin);
  EXPECT_EQ(entries[0].bytes, 8u);
  EXPECT_EQ(entries[1].name, "b");
  EXPECT_EQ(entries[1].dtype, DType::kBf16);
  EXPECT_EQ(entries[1].shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(entries[1].offset, data_begin + 8);
  EXPECT_EQ(entries[1].bytes, 12u);
  EXPECT_EQ(entries[2].name, "scalar");
  EXPECT_TRUE(entries[2].shape.empty());
  EXPECT_EQ(entries[3].name, "empty");
  EXPECT_EQ(entries[3].bytes, 0u);
}

TEST(Safetensors, AcceptsAFileWithoutTensors) {
  const auto result = parse_safetensors(as_bytes(safetensors_bytes("{}", "")), "x");
  ASSERT_TRUE(result.ok());
  EXPECT_TRUE(result.value().empty());
}

TEST(Safetensors, KnowsTheElementSizesOfTheFormat) {
  const std::pair<const char*, int> types[] = {
      {"F64", 64},    {"I64", 64}, {"U64", 64},        {"C64", 64},       {"F32", 32},    {"I32", 32},
      {"U32", 32},    {"F16", 16}, {"BF16", 16},       {"I16", 16},       {"U16", 16},    {"U8", 8},
      {"I8", 8},      {"BOOL", 8}, {"F8_E4M3", 8},     {"F8_E5M2", 8},    {"F8_E8M0", 8}, {"F6_E2M3", 6},
      {"F6_E3M2", 6}, {"F4", 4},   {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}};
  for (const auto& [name, bits] : types) {
    const std::string bytes = std::to_string(4 * bits / 8);
    const std::string header =
        std::string("{\"w\":{\"dtype\":\"") + name + "\",\"shape\":[4],\"data_offsets\":[0," + bytes + "]}}";
    const auto result =
        parse_safetensors(as_bytes(safetensors_bytes(header, std::string(4 * bits / 8, 'x'))), "x");
    EXPECT_TRUE(result.ok()) << name << ": " << result.status().message();
  }
}

TEST(Safetensors, RefusesATruncatedHeader) {
  EXPECT_CONTAINS(refused(""), "too few");
  EXPECT_CONTAINS(refused(std::string(7, '\0')), "too few");
  const std::string whole =
      safetensors_bytes(R"({"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", "abcd");
  for (size_t size = 0; size < whole.size(); ++size) refused(whole.substr(0, size));
}

TEST(Safetensors, RefusesALyingHeaderLength) {
  std::string bytes = safetensors_bytes("{}", "");
  bytes[0] = 3;
  EXPECT_CONTAINS(refused(bytes), "header of 3 bytes in a file of 10");
  bytes[0] = 1;
  refused(bytes);
  bytes[0] = 0;
  EXPECT_CONTAINS(refused(bytes), "'{'");
  EXPECT_CONTAINS(refused(std::string(16, '\xff')), "18446744073709551615");
}

TEST(Safetensors, RefusesAHeaderThatIsNoObject) {
  EXPECT_CONTAINS(refused("[]", ""), "'{'");
  EXPECT_CONTAINS(refused(" {}", ""), "'{'");
  EXPECT_CONTAINS(refused("{\"w\":", ""), "JSON");
  EXPECT_CONTAINS(refused(R"({"w":1})", ""), "\"w\" is described by a number");
  EXPECT_CONTAINS(refused(R"({"__metadata__":{"step":3}})", ""), "\"step\"");
  EXPECT_CONTAINS(refused(R"({"__metadata__":[]})", ""), "__metadata__");
  EXPECT_CONTAINS(refused(R"({"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"w":{}})", ""), "\"w\"");
}

TEST(Safetensors, RefusesMissingOrMistypedFields) {
  EXPECT_CONTAINS(refused_tensor(R"("shape":[64],"data_offsets":[0,64])"), "dtype");
  EXPECT_CONTAINS(refused_tensor(R"("dtype":1,"shape":[64],"data_offsets":[0,64])"), "dtype");
  EXPECT_CONTAINS(refused_tensor(R"("dtype":"F128","shape":[4],"data_offsets":[0,64])"), "\"F128\"");
  EXPECT_CONTAINS(refused_tensor(R"("dtype":"U8","data_offsets":[0,64])"), "shape");
  EXPECT_CONTAINS(refused_tensor(R"("dtype":"U8","shape":64,"data_offsets":[0,64])"), "shape");
  EXPECT_CONTAINS(refused_tensor(R"("dtype":"U8","shape":[-64],"data_offsets":[0,64])"), "shape");
  EXPECT_CONTAINS(refused_tensor(R"("dtype":"U8","shape":[6.4],"data_offsets":[0,64])"), "shape");
  EXPECT_CONTAINS(refused_tensor(R"("dtype":"U8","shape":["64"],"data_offsets":[0,64])"), "shape");
  EXPECT_CONTAINS(refused_tensor(R"("dtype":"U8","shape":[64])"), "data_offsets");
  EXPECT_CONTAINS(refused_tensor(R"("dtype":"U8","shape":[64],"data_offsets":[0])"), "data_offsets");
  EXPECT_CONTAINS(refused_tensor(R"("dtype":"U8","shape":[64],"data_offsets":[0,64,64])"), "data_offsets");
  EXPECT_CONTAINS(refused_tensor(R"("dtype":"U8","shape":[64],"data_offsets":[64,0])"), "begin <= end");
  EXPECT_CONTAINS(refused_tensor(R"("dtype":"U8","shape":[64],"data_offsets":[-1,63])"), "begin <= end");
  EXPECT_CONTAINS(refused_tensor(R"("dtype":"U8","shape":[1,1,1,1,1,1,1,1,64],"data_offsets":[0,64])"),
                  "9 dimensions");
}

TEST(Safetensors, RefusesSizesThatDoNotAgree) {
  EXPECT_CONTAINS(refused_tensor(R"("dtype":"U8","shape":[65],"data_offsets":[0,65])"), "only 64");
  EXPECT_CONTAINS(refused_tensor(R"("dtype":"F32","shape":[64],"data_offsets":[0,64])"), "need 256");
  EXPECT_CONTAINS(refused_tensor(R"("dtype":"U8","shape":[63],"data_offsets":[0,64])"), "need 63");
  EXPECT_CONTAINS(refused_tensor(R"("dtype":"F4","shape":[3],"data_offsets":[0,1])"), "middle of a byte");
  EXPECT_CONTAINS(refused_tensor(R"("dtype":"U8","shape":[64],"data_offsets":[0,9223372036854775807])"),
                  "only 64");
}

TEST(Safetensors, RefusesShapesThatOverflow) {
  // 2^32 * 2^32 wraps to 0, 2^63 elements of 16 bits to 0 too, and 64 * (1 + 2^58) to 64.
  EXPECT_CONTAINS(refused_tensor(R"("dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0])"),
                  "63 bits");
  EXPECT_CONTAINS(refused_tensor(R"("dtype":"F16","shape":[4611686018427387904,2],"data_offsets":[0,0])"),
                  "63 bits");
  EXPECT_CONTAINS(refused_tensor(R"("dtype":"U8","shape":[64,288230376151711745],"data_offsets":[0,64])"),
                  "63 bits");
  // No bytes, but strides that do not fit.
  EXPECT_CONTAINS(refused_tensor(R"("dtype":"U8","shape":[0,4294967296,4294967296],"data_offsets":[0,0])"),
                  "63 bits");
}

TEST(Safetensors, RefusesOverlapsAndHoles) {
  const auto two = [](const char* a, const char* b) {
    return std::string(R"({"a":{"dtype":"U8","shape":[32],"data_offsets":)") + a +
           R"(},"b":{"dtype":"U8","shape":[32],"data_offsets":)" + b + "}}";
  };
  EXPECT_TRUE(parse_safetensors(as_bytes(safetensors_bytes(two("[0,32]", "[32,64]"), kData)), "x").ok());
  EXPECT_CONTAINS(refused(two("[0,32]", "[31,63]"), kData), "\"b\" overlaps");
  EXPECT_CONTAINS(refused(two("[0,32]", "[0,32]"), kData), "overlaps");
  EXPECT_CONTAINS(refused(two("[1,33]", "[33,65]"), kData + "x"), "\"a\" comes after 1 bytes");
  EXPECT_CONTAINS(refused(two("[0,32]", "[40,72]"), kData + std::string(8, 'x')), "\"b\" comes after 8 bytes");
  EXPECT_CONTAINS(refused(two("[0,32]", "[32,64]"), kData + "x"), "last 1 bytes");
}

TEST(Safetensors, ShortensHostileNames) {
  std::string header = "{";
  header += "\"" + std::string(100000, 'n') + "\\u001b[2J\":{}}";
  EXPECT_LT(refused(header, "").size(), 300u);
}

TEST(SafetensorsFile, LoadsAlignedAndUnalignedTensors) {
  const TemporaryDirectory directory;
  const float values[] = {1.5f, -2.25f, 3.0f, 0.5f, 8.0f, -1.0f};
  std::string data(reinterpret_cast<const char*>(values), sizeof values);
  data += '\x07';
  data.append(reinterpret_cast<const char*>(values), sizeof values);
  std::string header =
      R"({"m":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"byte":{"dtype":"U8","shape":[1],"data_offsets":[24,25]},)"
      R"("shifted":{"dtype":"F32","shape":[3,2],"data_offsets":[25,49]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const auto file = SafetensorsFile::open(directory.write("x.safetensors", safetensors_bytes(header, data)));
  ASSERT_TRUE(file.ok()) << file.status().message();

  const auto aligned = file.value().load("m");
  ASSERT_TRUE(aligned.ok()) << aligned.status().message();
  EXPECT_EQ(aligned.value().aligned_copy, nullptr);
  const auto shifted = file.value().load("shifted");
  ASSERT_TRUE(shifted.ok()) << shifted.status().message();
  EXPECT_NE(shifted.value().aligned_copy, nullptr);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(shifted.value().tensor.data) % alignof(float), 0u);
  for (const SourceTensor* source : {&aligned.value(), &shifted.value()}) {
    EXPECT_EQ(source->tensor.dtype, DType::kF32);
    EXPECT_TRUE(source->tensor.is_dense());
    EXPECT_EQ(std::memcmp(source->tensor.data, values, sizeof values), 0);
  }
  EXPECT_EQ(shifted.value().tensor.rank, 2);
  EXPECT_EQ(shifted.value().tensor.shape[0], 3);
  EXPECT_EQ(shifted.value().tensor.shape[1], 2);
  EXPECT_EQ(shifted.value().tensor.stride[0], 2);
  file.value().release("m");
  EXPECT_EQ(aligned.value().tensor.as<float>()[5], -1.0f);
}

TEST(SafetensorsFile, NamesWhatItCannotLoad) {
  const TemporaryDirectory directory;
  const std::string path = directory.write(
      "x.safetensors", safetensors_bytes(R"({"ids":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},)"
                                         R"("deep":{"dtype":"U8","shape":[1,1,1,1,1],"data_offsets":[8,9]}})",
                                         std::string(9, 'x')));
  const auto file = SafetensorsFile::open(path);
  ASSERT_TRUE(file.ok()) << file.status().message();
  const std::pair<std::string, Code> cases[] = {
      {"ids", Code::kUnsupported}, {"deep", Code::kUnsupported}, {"absent", Code::kCorruptFile}};
  for (const auto& [name, code] : cases) {
    const auto tensor = file.value().load(name);
    ASSERT_FALSE(tensor.ok());
    EXPECT_EQ(tensor.status().code(), code);
    EXPECT_CONTAINS(tensor.status().message(), "\"" + name + "\"");
    EXPECT_CONTAINS(tensor.status().message(), path);
  }
  EXPECT_CONTAINS(file.value().load("ids").status().message(), "I64");
  file.value().release("absent");
}

TEST(SafetensorsFile, ReadsTheFixtures) {
  const auto file = SafetensorsFile::open(LONGHAUL_FIXTURES "/models/llama/golden_short.safetensors");
  ASSERT_TRUE(file.ok()) << file.status().message();
  const auto ids = file.value().load("input_ids");
  ASSERT_TRUE(ids.ok()) << ids.status().message();
  EXPECT_EQ(ids.value().tensor.dtype, DType::kI32);
  ASSERT_EQ(ids.value().tensor.rank, 1);
  for (int64_t i = 0; i < ids.value().tensor.elements(); ++i) {
    EXPECT_GE(ids.value().tensor.as<int32_t>()[i], 0);
    EXPECT_LT(ids.value().tensor.as<int32_t>()[i], 320);  // vocab_size
  }
}

}  // namespace
}  // namespace longhaul
