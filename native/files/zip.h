// Zip archives whose entries are stored, as torch.save writes them: the file is its own contents, nothing is
// unpacked. Format: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3 and 4.5.3 (zip64).
#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "core/status.h"

namespace longhaul {

struct ZipEntry {
  std::string_view name;  // inside the file's bytes
  size_t offset = 0;      // of the first byte of its contents
  size_t bytes = 0;
};

inline constexpr size_t kZipMaxEntries = size_t{1} << 20;

// The entries of a whole archive in memory, sorted by name. On success every [offset, offset + bytes) lies
// inside `file`, entries do not overlap, no name occurs twice, and each is a relative path without "." and
// "..". kCorruptFile names `path`, the entry and what is wrong; kUnsupported: compressed or encrypted entries,
// several disks. Checksums are not compared: torch.save can be told to leave them out.
Result<std::vector<ZipEntry>> parse_zip(std::span<const std::byte> file, std::string_view path);

}  // namespace longhaul
