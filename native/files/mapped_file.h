// A file mapped read-only into memory.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "core/status.h"

namespace longhaul {

// The size is taken once, when the file is opened. A file that another process truncates afterwards raises
// SIGBUS at the next read of the lost pages, and nothing in this process can turn that into an error: model
// files are replaced by renaming a new file over them, never in place.
class MappedFile {
 public:
  // kInvalidArgument when there is no such file, it cannot be read, or it is not a regular file (links are
  // followed). An empty file is mapped as no bytes.
  static Result<MappedFile> open(const std::string& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }

  // Gives the memory of all pages that [offset, offset + bytes) touches back to the system. They stay readable:
  // a later read brings them back from the file.
  void release(size_t offset, size_t bytes) const;

 private:
  MappedFile(std::string path, const std::byte* data, size_t size);

  std::string path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace longhaul
