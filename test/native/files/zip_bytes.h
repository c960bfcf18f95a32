// Zip archives in memory, right or wrong: every field of a header can be told to lie.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace longhaul {

inline std::string little_endian(uint64_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i) text.push_back(static_cast<char>(value >> (8 * i)));
  return text;
}

struct ZipMember {
  std::string name;
  std::string data;
  uint16_t flags = 0;
  uint16_t method = 0;
  std::optional<std::string> local_name;  // another than the directory's
  std::optional<uint32_t> bytes;          // in both headers
  std::optional<uint32_t> local_offset;   // where the directory says that the local header is
  std::string directory_extra;
  uint16_t disk = 0;
};

struct ZipOptions {
  bool zip64 = false;  // as torch.save: a zip64 directory beside the short one
  std::optional<uint64_t> entries;
  std::optional<uint64_t> directory_offset;
  std::optional<uint64_t> directory_bytes;
  std::optional<uint64_t> zip64_record;  // where the locator says that the record is
  std::string before_directory;
  std::string comment;
};

inline std::string zip_bytes(const std::vector<ZipMember>& members, const ZipOptions& options = {}) {
  std::string file, directory;
  for (const ZipMember& m : members) {
    const size_t local = file.size();
    const uint64_t bytes = m.bytes.value_or(static_cast<uint32_t>(m.data.size()));
    const bool behind = m.flags & 8;
    const std::string& name = m.local_name ? *m.local_name : m.name;
    file += little_endian(0x04034b50, 4) + little_endian(20, 2) + little_endian(m.flags, 2) +
            little_endian(m.method, 2) + little_endian(0, 8) + little_endian(behind ? 0 : bytes, 4) +
            little_endian(behind ? 0 : bytes, 4) + little_endian(name.size(), 2) + little_endian(0, 2) + name +
            m.data;
    if (behind)
      file += little_endian(0x08074b50, 4) + little_endian(0, 4) + little_endian(bytes, 8) +
              little_endian(bytes, 8);
    directory += little_endian(0x02014b50, 4) + little_endian(0, 2) + little_endian(20, 2) +
                 little_endian(m.flags, 2) + little_endian(m.method, 2) + little_endian(0, 8) +
                 little_endian(bytes, 4) + little_endian(bytes, 4) + little_endian(m.name.size(), 2) +
                 little_endian(m.directory_extra.size(), 2) + little_endian(0, 2) + little_endian(m.disk, 2) +
                 little_endian(0, 6) + little_endian(m.local_offset.value_or(local), 4) + m.name +
                 m.directory_extra;
  }
  file += options.before_directory;
  const uint64_t offset = options.directory_offset.value_or(file.size());
  const uint64_t bytes = options.directory_bytes.value_or(directory.size());
  const uint64_t entries = options.entries.value_or(members.size());
  file += directory;
  if (options.zip64) {
    const size_t record = file.size();
    file += little_endian(0x06064b50, 4) + little_endian(44, 8) + little_endian(45, 2) + little_endian(45, 2) +
            little_endian(0, 8) + little_endian(entries, 8) + little_endian(entries, 8) +
            little_endian(bytes, 8) + little_endian(offset, 8);
    file += little_endian(0x07064b50, 4) + little_endian(0, 4) +
            little_endian(options.zip64_record.value_or(record), 8) + little_endian(1, 4);
  }
  file += little_endian(0x06054b50, 4) + little_endian(0, 4) + little_endian(entries, 2) +
          little_endian(entries, 2) + little_endian(bytes, 4) + little_endian(offset, 4) +
          little_endian(options.comment.size(), 2) + options.comment;
  return file;
}

}  // namespace longhaul
