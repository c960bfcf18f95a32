#include <gtest/gtest.h>

#include <algorithm>

#include "files/safetensors.h"
#include "files/safetensors_bytes.h"
#include "files/temporary_directory.h"

namespace longhaul {
namespace {

// A shard that holds the one byte `value` as tensor `name`.
std::string shard(const std::string& name, char value) {
  return safetensors_bytes("{\"" + name + R"(":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
                           std::string(1, value));
}

// The message with which the checkpoint in `directory` is refused.
std::string refused(const TemporaryDirectory& directory) {
  const auto checkpoint = Checkpoint::open(directory.path());
  EXPECT_FALSE(checkpoint.ok());
  EXPECT_EQ(checkpoint.status().code(), Code::kCorruptFile) << checkpoint.status().message();
  EXPECT_NE(checkpoint.status().message().find(directory.path()), std::string::npos)
      << checkpoint.status().message();
  return checkpoint.status().message();
}

#define EXPECT_CONTAINS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

constexpr char kIndex[] = "model.safetensors.index.json";

TEST(Checkpoint, ReadsOneFile) {
  const auto checkpoint = Checkpoint::open(LONGHAUL_FIXTURES "/models/llama_bf16");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  const TensorEntry* embedding = checkpoint.value().find("model.embed_tokens.weight");
  ASSERT_NE(embedding, nullptr);
  EXPECT_EQ(embedding->dtype, DType::kBf16);
  EXPECT_EQ(embedding->shape, (std::vector<int64_t>{320, 64}));
  EXPECT_EQ(checkpoint.value().find("model.embed_tokens"), nullptr);
  const std::vector<std::string_view> names = checkpoint.value().names();
  EXPECT_TRUE(std::is_sorted(names.begin(), names.end()));
  for (const std::string_view name : names) {
    const auto tensor = checkpoint.value().load(name);
    ASSERT_TRUE(tensor.ok()) << tensor.status().message();
    EXPECT_EQ(static_cast<size_t>(tensor.value().tensor.bytes()), checkpoint.value().find(name)->bytes);
    checkpoint.value().release(name);
  }
}

TEST(Checkpoint, ReadsShards) {
  const TemporaryDirectory directory;
  directory.write("one.safetensors", shard("a", 'A'));
  directory.write("two.safetensors", shard("b", 'B'));
  directory.write(
      kIndex, R"({"metadata":{"total_size":2},"weight_map":{"b":"two.safetensors","a":"one.safetensors"}})");
  auto opened = Checkpoint::open(directory.path());
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  const Checkpoint checkpoint = std::move(opened.value());
  EXPECT_EQ(checkpoint.names(), (std::vector<std::string_view>{"a", "b"}));
  const auto a = checkpoint.load("a");
  const auto b = checkpoint.load("b");
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_EQ(*a.value().tensor.as<char>(), 'A');
  EXPECT_EQ(*b.value().tensor.as<char>(), 'B');
  const auto absent = checkpoint.load("c");
  EXPECT_EQ(absent.status().code(), Code::kCorruptFile);
  EXPECT_CONTAINS(absent.status().message(), "\"c\"");
}

TEST(Checkpoint, RefusesADirectoryWithoutWeights) {
  const TemporaryDirectory directory;
  directory.write("pytorch_model.bin", "x");
  for (const std::string& path : {directory.path(), directory.path() + "/none"}) {
    const auto checkpoint = Checkpoint::open(path);
    ASSERT_FALSE(checkpoint.ok());
    EXPECT_EQ(checkpoint.status().code(), Code::kInvalidArgument);
    EXPECT_CONTAINS(checkpoint.status().message(), path);
    EXPECT_CONTAINS(checkpoint.status().message(), "model.safetensors");
  }
}

TEST(Checkpoint, RefusesShardsOutsideTheDirectory) {
  const TemporaryDirectory directory;
  for (const char* name :
       {"../other.safetensors", "/etc/passwd", "sub/x.safetensors", "..", ".", "", "a\\\\b", "x\\u0000y"}) {
    directory.write(kIndex, std::string(R"({"weight_map":{"w":")") + name + "\"}}");
    const std::string message = refused(directory);
    EXPECT_CONTAINS(message, "\"w\"");
    EXPECT_CONTAINS(message, "not the name of a file");
  }
}

TEST(Checkpoint, RefusesAnIndexThatDoesNotFitItsShards) {
  const TemporaryDirectory directory;
  directory.write("one.safetensors", shard("a", 'A'));
  directory.write(kIndex, R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  EXPECT_CONTAINS(refused(directory), "\"b\" is in shard \"two.safetensors\", which is missing");
  directory.write(kIndex, R"({"weight_map":{"a":"one.safetensors","b":"one.safetensors"}})");
  EXPECT_CONTAINS(refused(directory), "\"b\" is not in its shard \"one.safetensors\"");
  directory.write(kIndex, R"({"weight_map":{"a":1}})");
  EXPECT_CONTAINS(refused(directory), "\"a\"");
  directory.write(kIndex, R"({"weight_map":[]})");
  EXPECT_CONTAINS(refused(directory), "weight_map");
  directory.write(kIndex, "{}");
  EXPECT_CONTAINS(refused(directory), "weight_map");
  directory.write(kIndex, "{");
  EXPECT_CONTAINS(refused(directory), "JSON");
  directory.write("one.safetensors", "short");
  directory.write(kIndex, R"({"weight_map":{"a":"one.safetensors"}})");
  EXPECT_CONTAINS(refused(directory), "one.safetensors");
}

}  // namespace
}  // namespace longhaul
