#include "files/torch_archive.h"

#include <gtest/gtest.h>

#include "files/pickle_bytes.h"
#include "files/safetensors_bytes.h"

namespace longhaul {
namespace {

using namespace pickle;  // the instructions

std::string refusal(const std::string& bytes, Code code = Code::kCorruptFile) {
  const auto tensors = parse_torch_archive(as_bytes(bytes), "f.bin");
  if (tensors.ok()) return "accepted";
  EXPECT_EQ(tensors.status().code(), code) << tensors.status().message();
  return tensors.status().message();
}

void expect_refused(const std::string& bytes, std::string_view why, Code code = Code::kCorruptFile) {
  const std::string message = refusal(bytes, code);
  EXPECT_NE(message.find(why), std::string::npos) << message;
}

// A file of one tensor on a storage of eight floats.
std::string one(std::vector<int64_t> shape, std::vector<int64_t> stride, int64_t offset = 0) {
  return torch_bytes(dictionary({{.name = "w",
                                  .shape = std::move(shape),
                                  .stride = std::move(stride),
                                  .storage_elements = 8,
                                  .offset = offset}}),
                     {"0123456789abcdefghijklmnopqrstuv"});
}

TEST(TorchArchive, PlacesTensorsInTheFile) {
  const std::string bytes = torch_bytes(
      dictionary({{.name = "w", .shape = {2, 2}, .stride = {1, 2}, .storage_elements = 8, .offset = 3},
                  {.name = "shared", .shape = {8}, .stride = {1}, .storage_elements = 8},
                  {.name = "h",
                   .shape = {2},
                   .stride = {1},
                   .storage = "1",
                   .storage_elements = 2,
                   .type = "HalfStorage",
                   .parameter = true},
                  {.name = "none", .shape = {0, 5}, .stride = {5, 1}, .storage = "2"}}),
      {"0123456789abcdefghijklmnopqrstuv", "wxyz", ""});
  const auto tensors = parse_torch_archive(as_bytes(bytes), "f.bin");
  ASSERT_TRUE(tensors.ok()) << tensors.status().message();
  ASSERT_EQ(tensors.value().size(), 4u);
  EXPECT_EQ(bytes.substr(tensors.value()[0].offset, 4), "cdef");
  EXPECT_EQ(tensors.value()[0].stride, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(bytes.substr(tensors.value()[1].offset, 4), "0123");
  EXPECT_EQ(bytes.substr(tensors.value()[2].offset, 4), "wxyz");
  EXPECT_EQ(tensors.value()[2].dtype, DType::kF16);
}

TEST(TorchArchive, RefusesTensorsThatLeaveTheirStorage) {
  EXPECT_EQ(refusal(one({8}, {1})), "accepted");
  EXPECT_EQ(refusal(one({2, 4}, {4, 1})), "accepted");
  EXPECT_EQ(refusal(one({0}, {1}, 8)), "accepted");
  expect_refused(one({9}, {1}), "tensor \"w\" reaches behind the 8 elements");
  expect_refused(one({8}, {1}, 1), "reaches behind");
  expect_refused(one({2, 4}, {5, 1}), "reaches behind");
  expect_refused(one({}, {}, 8), "reaches behind");
  expect_refused(one({0}, {1}, 9), "reaches behind");
  expect_refused(one({INT64_MAX, 2}, {0, 1}), "reaches behind");
  expect_refused(one({INT64_MAX}, {INT64_MAX}), "reaches behind");
  expect_refused(one({int64_t{1} << 62, int64_t{1} << 62}, {0, 0}), "reaches behind");
  expect_refused(one({1}, {1}, INT64_MAX), "reaches behind");
}

TEST(TorchArchive, RefusesStoragesThatAreMissingOrOfAnotherSize) {
  const std::string pickle = dictionary({{.name = "w", .shape = {2}, .stride = {1}, .storage_elements = 2}});
  EXPECT_EQ(refusal(torch_bytes(pickle, {"01234567"})), "accepted");
  expect_refused(torch_bytes(pickle, {}), "tensor \"w\" is in storage 0, which the file lacks");
  expect_refused(torch_bytes(pickle, {"0123456"}), "storage 0 of 7 bytes, not the 2 elements of f32");
  expect_refused(torch_bytes(pickle, {"0123"}), "storage 0 of 4 bytes");
  expect_refused(torch_bytes(pickle, {"0123456789ab"}), "storage 0 of 12 bytes");
}

TEST(TorchArchive, RefusesOtherArchives) {
  const std::string pickle = dictionary({{.name = "w", .shape = {1}, .stride = {1}, .storage_elements = 1}});
  std::vector<ZipMember> members = torch_members(pickle, {"0123"});
  members[1].data = "big";
  expect_refused(zip_bytes(members), "byte order \"big\"", Code::kUnsupported);
  members = torch_members(pickle, {"0123"});
  members.push_back({.name = "elsewhere/data/0", .data = "0123"});
  expect_refused(zip_bytes(members), "\"elsewhere/data/0\" is outside of \"adapter_model\"");
  expect_refused(zip_bytes({}), "empty zip");
  expect_refused(zip_bytes({{.name = "adapter_model/data/0", .data = "0123"}}), "without data.pkl");
  expect_refused("\x80\x02\x8a\x0al\xfc\x9c\x46\xf9 j\xa8P\x19.", "saved by torch before 1.6");
}

}  // namespace
}  // namespace longhaul
