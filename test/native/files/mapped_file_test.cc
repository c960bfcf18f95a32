#include "files/mapped_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>

#include "files/temporary_directory.h"

namespace longhaul {
namespace {

std::string text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

TEST(MappedFile, ShowsTheBytesOfAFile) {
  const TemporaryDirectory directory;
  const std::string path = directory.write("a", "hello");
  Result<MappedFile> file = MappedFile::open(path);
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ(text_of(file.value()), "hello");
  EXPECT_EQ(file.value().path(), path);
}

TEST(MappedFile, MapsAnEmptyFileAsNoBytes) {
  const TemporaryDirectory directory;
  Result<MappedFile> file = MappedFile::open(directory.write("empty", ""));
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_TRUE(file.value().bytes().empty());
  file.value().release(0, 1);
}

TEST(MappedFile, RefusesWhatIsNoRegularFile) {
  const TemporaryDirectory directory;
  const std::string fifo = directory.path() + "/fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  const std::pair<std::string, std::string> cases[] = {
      {directory.path() + "/none", "no such file"},
      {directory.path() + "/none/below", "no such file"},
      {directory.path(), "directory"},
      {fifo, "not a regular file"},
      {std::string("a\0b", 3), "NUL"},
  };
  for (const auto& [path, part] : cases) {
    const Result<MappedFile> file = MappedFile::open(path);
    ASSERT_FALSE(file.ok()) << path;
    EXPECT_EQ(file.status().code(), Code::kInvalidArgument);
    EXPECT_NE(file.status().message().find(part), std::string::npos) << file.status().message();
  }
}

TEST(MappedFile, MovesItsMapping) {
  const TemporaryDirectory directory;
  Result<MappedFile> first = MappedFile::open(directory.write("a", "first"));
  Result<MappedFile> second = MappedFile::open(directory.write("b", "second"));
  ASSERT_TRUE(first.ok() && second.ok());
  MappedFile moved(std::move(first.value()));
  EXPECT_EQ(text_of(moved), "first");
  EXPECT_TRUE(first.value().bytes().empty());
  moved = std::move(second.value());
  EXPECT_EQ(text_of(moved), "second");
}

TEST(MappedFile, ReleasedPagesReadBackFromTheFile) {
  const TemporaryDirectory directory;
  std::string bytes(50000, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 7 + i / 251);
  Result<MappedFile> file = MappedFile::open(directory.write("a", bytes));
  ASSERT_TRUE(file.ok());
  ASSERT_EQ(text_of(file.value()), bytes);
  file.value().release(5000, 30000);
  file.value().release(49999, SIZE_MAX);  // clipped to the file
  file.value().release(50000, 1);
  file.value().release(SIZE_MAX, SIZE_MAX);
  EXPECT_EQ(text_of(file.value()), bytes);
}

}  // namespace
}  // namespace longhaul
