#include "files/zip.h"

#include <gtest/gtest.h>

#include "files/safetensors_bytes.h"
#include "files/zip_bytes.h"

namespace longhaul {
namespace {

const std::vector<ZipMember> kTwo = {{.name = "a/x", .data = "hello"}, {.name = "a/b/y", .data = "worlds"}};

std::string refusal(const std::string& bytes, Code code = Code::kCorruptFile) {
  const auto entries = parse_zip(as_bytes(bytes), "f.bin");
  if (entries.ok()) return "accepted";
  EXPECT_EQ(entries.status().code(), code) << entries.status().message();
  EXPECT_TRUE(entries.status().message().starts_with("f.bin: ")) << entries.status().message();
  return entries.status().message();
}

std::string refusal_of(ZipMember member, Code code = Code::kCorruptFile) {
  return refusal(zip_bytes({{.name = "a/first", .data = "1"}, std::move(member)}), code);
}

void expect_two(const std::string& bytes) {
  const auto entries = parse_zip(as_bytes(bytes), "f.bin");
  ASSERT_TRUE(entries.ok()) << entries.status().message();
  ASSERT_EQ(entries.value().size(), 2u);
  EXPECT_EQ(entries.value()[0].name, "a/b/y");
  EXPECT_EQ(bytes.substr(entries.value()[0].offset, entries.value()[0].bytes), "worlds");
  EXPECT_EQ(entries.value()[1].name, "a/x");
  EXPECT_EQ(bytes.substr(entries.value()[1].offset, entries.value()[1].bytes), "hello");
}

TEST(Zip, FindsStoredEntries) {
  expect_two(zip_bytes(kTwo));
  expect_two(zip_bytes(kTwo, {.zip64 = true}));
  std::vector<ZipMember> descriptors = kTwo;
  for (ZipMember& member : descriptors) member.flags = 0x0808;
  expect_two(zip_bytes(descriptors, {.zip64 = true}));
  expect_two(zip_bytes(kTwo, {.before_directory = "padding"}));
}

TEST(Zip, TakesSizesThatDoNotFitFromTheZip64Field) {
  std::vector<ZipMember> members = kTwo;
  // Field 1: the uncompressed size, the stored size, the local header.
  members[1].bytes = 0xffffffff;
  members[1].local_offset = 0xffffffff;
  const uint64_t local = 30 + 3 + 5;
  members[1].directory_extra = little_endian(9, 2) + little_endian(0, 2) + little_endian(1, 2) +
                               little_endian(24, 2) + little_endian(6, 8) + little_endian(6, 8) +
                               little_endian(local, 8);
  expect_two(zip_bytes(members, {.zip64 = true}));

  members[1].directory_extra =
      little_endian(1, 2) + little_endian(16, 2) + little_endian(6, 8) + little_endian(6, 8);
  EXPECT_NE(refusal(zip_bytes(members)).find("\"a/b/y\" lacks its zip64 sizes"), std::string::npos);
  members[1].directory_extra =
      little_endian(1, 2) + little_endian(17, 2) + little_endian(6, 8) + little_endian(6, 8);
  EXPECT_NE(refusal(zip_bytes(members)).find("broken extra fields"), std::string::npos);
  members[1].directory_extra = little_endian(1, 2) + little_endian(24, 2) + little_endian(6, 8) +
                               little_endian(7, 8) + little_endian(local, 8);
  EXPECT_NE(refusal(zip_bytes(members)).find("two different sizes"), std::string::npos);
  members[1].directory_extra = little_endian(1, 2) + little_endian(24, 2) + little_endian(~uint64_t{0}, 8) +
                               little_endian(~uint64_t{0}, 8) + little_endian(local, 8);
  EXPECT_NE(refusal(zip_bytes(members)).find("more than the file"), std::string::npos);
}

TEST(Zip, RefusesEveryTruncation) {
  for (const bool zip64 : {false, true}) {
    const std::string bytes = zip_bytes(kTwo, {.zip64 = zip64});
    for (size_t length = 0; length < bytes.size(); ++length) refusal(bytes.substr(0, length));
    for (size_t begin = 1; begin < bytes.size(); ++begin) {
      const std::string rest = bytes.substr(begin);
      EXPECT_FALSE(parse_zip(as_bytes(rest), "f").ok()) << begin;
    }
  }
}

TEST(Zip, RefusesWhatLies) {
  EXPECT_NE(refusal(zip_bytes(kTwo, {.comment = "PK"})).find("does not end as a zip archive"),
            std::string::npos);
  EXPECT_NE(refusal(zip_bytes(kTwo, {.entries = 1})).find("bytes that belong to no entry"), std::string::npos);
  EXPECT_NE(refusal(zip_bytes(kTwo, {.entries = 3})).find("3 entries"), std::string::npos);
  EXPECT_NE(
      refusal(zip_bytes(kTwo, {.zip64 = true, .entries = (uint64_t{1} << 60) - 1})).find("1152921504606846975"),
      std::string::npos);
  EXPECT_NE(refusal(zip_bytes(kTwo, {.zip64 = true, .entries = 65538})).find("contradict"), std::string::npos);
  EXPECT_NE(refusal(zip_bytes(kTwo, {.directory_offset = 10})).find("does not end where"), std::string::npos);
  EXPECT_NE(refusal(zip_bytes(kTwo, {.directory_bytes = 40})).find("does not end where"), std::string::npos);
  EXPECT_NE(refusal(zip_bytes(kTwo, {.directory_offset = 0xffffffff})).find("needs a zip64 directory"),
            std::string::npos);
  EXPECT_NE(refusal(zip_bytes(kTwo, {.zip64 = true, .zip64_record = 0})).find("not where its locator"),
            std::string::npos);
  EXPECT_NE(
      refusal(zip_bytes(kTwo, {.zip64 = true, .zip64_record = ~uint64_t{0}})).find("not where its locator"),
      std::string::npos);
  EXPECT_NE(refusal_of({.name = "a/z", .data = "1", .bytes = 100}).find("more than the file"),
            std::string::npos);
  EXPECT_NE(refusal_of({.name = "a/z", .data = "1", .local_name = "a/q"}).find("local header"),
            std::string::npos);
  EXPECT_NE(refusal_of({.name = "a/z", .data = "1", .local_offset = 3}).find("local header"),
            std::string::npos);
  EXPECT_NE(refusal_of({.name = "a/z", .data = "1", .local_offset = 100000}).find("local header"),
            std::string::npos);
  EXPECT_NE(refusal_of({.name = "a/z", .data = "1", .disk = 2}).find("another disk"), std::string::npos);
  EXPECT_NE(refusal_of({.name = "a/first", .data = "2"}).find("\"a/first\" is there twice"), std::string::npos);
}

TEST(Zip, RefusesEntriesThatOverlap) {
  // The second entry's header is the inside of the first one's contents.
  const std::string inner = zip_bytes({{.name = "a/y", .data = "worlds"}}).substr(0, 30 + 3 + 6);
  const std::string bytes =
      zip_bytes({{.name = "a/x", .data = inner}, {.name = "a/y", .data = "worlds", .local_offset = 33}});
  EXPECT_NE(refusal(bytes).find("overlap"), std::string::npos);
  // Both are the same bytes: the seed of a zip bomb.
  const std::string twice =
      zip_bytes({{.name = "a/y", .data = "worlds"}, {.name = "a/y", .data = "worlds", .local_offset = 0}});
  EXPECT_NE(refusal(twice).find("overlap"), std::string::npos);
}

TEST(Zip, RefusesNamesThatLeaveTheArchive) {
  for (const std::string name :
       {"../x", "a/../../x", "/etc/passwd", "a//x", "a/", "./x", "a/.", "..", "a\\x", "", "C:\\x"}) {
    EXPECT_NE(refusal_of({.name = name, .data = "1"}).find("no relative path"), std::string::npos) << name;
  }
  EXPECT_NE(refusal_of({.name = std::string("a\0b", 3), .data = "1"}).find("no relative path"),
            std::string::npos);
}

TEST(Zip, RefusesWhatHasToBeUnpacked) {
  EXPECT_NE(refusal_of({.name = "a/z", .data = "1", .method = 8}, Code::kUnsupported).find("is compressed"),
            std::string::npos);
  EXPECT_NE(refusal_of({.name = "a/z", .data = "1", .flags = 1}, Code::kUnsupported).find("is encrypted"),
            std::string::npos);
}

}  // namespace
}  // namespace longhaul
