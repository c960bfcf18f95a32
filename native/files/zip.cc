#include "files/zip.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "files/bytes.h"
#include "files/json.h"

namespace longhaul {
namespace {

constexpr uint32_t kEndSignature = 0x06054b50;
constexpr uint32_t kEnd64Signature = 0x06064b50;
constexpr uint32_t kLocator64Signature = 0x07064b50;
constexpr uint32_t kCentralSignature = 0x02014b50;
constexpr uint32_t kLocalSignature = 0x04034b50;
constexpr size_t kEndBytes = 22;
constexpr size_t kEnd64Bytes = 56;
constexpr size_t kLocator64Bytes = 20;
constexpr size_t kCentralBytes = 46;
constexpr size_t kLocalBytes = 30;
constexpr uint16_t kZip64Field = 1;
constexpr uint32_t kIn64 = 0xffffffff;  // "see the zip64 field"
constexpr uint16_t kIn64Short = 0xffff;
constexpr uint16_t kEncrypted = 0x2041;    // bits 0, 6 and 13
constexpr uint16_t kSizesBehind = 0x0008;  // the local header has no sizes, a descriptor behind the data has

struct Directory {
  uint64_t entries = 0;
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

struct Header {
  std::string_view name;
  uint64_t local = 0;  // of the local header
  uint64_t bytes = 0;
};

bool is_safe_name(std::string_view name) {
  if (name.empty() || name.find_first_of(std::string_view("\\\0", 2)) != name.npos) return false;
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('/', begin), name.size());
    const std::string_view part = name.substr(begin, end - begin);
    if (part.empty() || part == "." || part == "..") return false;
    begin = end + 1;
  }
  return true;
}

class ZipReader {
 public:
  ZipReader(std::span<const std::byte> file, std::string_view path) : file_(file), path_(path) {}

  Result<std::vector<ZipEntry>> read() {
    LONGHAUL_ASSIGN(const Directory directory, find_directory());
    if (directory.entries > kZipMaxEntries || directory.entries > directory.bytes / kCentralBytes) {
      return bad("claims " + std::to_string(directory.entries) + " entries in a directory of " +
                 std::to_string(directory.bytes) + " bytes");
    }
    uint64_t at = directory.offset;
    directory_end_ = directory.offset + directory.bytes;
    for (uint64_t i = 0; i < directory.entries; ++i) {
      LONGHAUL_ASSIGN(const Header header, read_central(at));
      LONGHAUL_ASSIGN(const ZipEntry entry, read_local(header, directory.offset));
      entries_.push_back(entry);
      places_.push_back({header.local, entry.offset + entry.bytes});
    }
    if (at != directory_end_) return bad("has a directory with bytes that belong to no entry");
    LONGHAUL_TRY(check_places());
    return std::move(entries_);
  }

 private:
  Status bad(const std::string& what) const { return corrupt_file(std::string(path_) + ": " + what); }
  Status bad_entry(std::string_view name, const std::string& what) const {
    return bad("zip entry " + quote_for_message(name) + " " + what);
  }
  template <class T>
  T at(uint64_t offset) const {
    return read_little_endian<T>(file_, offset);
  }

  // The end record is the last thing in the file: a comment behind it could hold a second one, and two readers
  // could see two archives.
  Result<Directory> find_directory() {
    if (file_.size() < kEndBytes || at<uint32_t>(file_.size() - kEndBytes) != kEndSignature) {
      return bad(
          "does not end as a zip archive; is it truncated, or saved by torch before 1.6? Load it in Python "
          "and save it again, best as safetensors");
    }
    const uint64_t end = file_.size() - kEndBytes;
    Directory directory{at<uint16_t>(end + 10), at<uint32_t>(end + 16), at<uint32_t>(end + 12)};
    const bool saturated =
        directory.entries == kIn64Short || directory.offset == kIn64 || directory.bytes == kIn64;
    uint64_t directory_limit = end;
    if (end >= kLocator64Bytes && at<uint32_t>(end - kLocator64Bytes) == kLocator64Signature) {
      LONGHAUL_ASSIGN(directory, find_directory64(end - kLocator64Bytes, directory));
      directory_limit = end - kLocator64Bytes - kEnd64Bytes;
    } else if (saturated) {
      return bad("needs a zip64 directory and has none");
    } else if (at<uint16_t>(end + 4) != 0 || at<uint16_t>(end + 6) != 0 ||
               at<uint16_t>(end + 8) != directory.entries) {
      return unsupported(std::string(path_) + ": is one of several parts of a zip archive");
    }
    if (directory.offset > directory_limit || directory.bytes != directory_limit - directory.offset) {
      return bad("has a zip directory of " + std::to_string(directory.bytes) + " bytes at byte " +
                 std::to_string(directory.offset) + ", which does not end where it has to");
    }
    return directory;
  }

  Result<Directory> find_directory64(uint64_t locator, const Directory& short_form) {
    const uint64_t record = at<uint64_t>(locator + 8);
    if (locator < kEnd64Bytes || record != locator - kEnd64Bytes || at<uint32_t>(record) != kEnd64Signature ||
        at<uint64_t>(record + 4) != kEnd64Bytes - 12) {
      return bad("has a zip64 directory that is not where its locator says");
    }
    if (at<uint32_t>(locator + 4) != 0 || at<uint32_t>(record + 16) != 0 || at<uint32_t>(record + 20) != 0 ||
        at<uint64_t>(record + 24) != at<uint64_t>(record + 32)) {
      return unsupported(std::string(path_) + ": is one of several parts of a zip archive");
    }
    const Directory directory{at<uint64_t>(record + 32), at<uint64_t>(record + 48), at<uint64_t>(record + 40)};
    if ((short_form.entries != kIn64Short && short_form.entries != directory.entries) ||
        (short_form.offset != kIn64 && short_form.offset != directory.offset) ||
        (short_form.bytes != kIn64 && short_form.bytes != directory.bytes)) {
      return bad("has two zip directories that contradict each other");
    }
    return directory;
  }

  // Reads the entry of the directory at `at_` and moves behind it.
  Result<Header> read_central(uint64_t& at_) {
    const uint64_t begin = at_;
    if (directory_end_ - begin < kCentralBytes || at<uint32_t>(begin) != kCentralSignature) {
      return bad("has a broken zip directory at byte " + std::to_string(begin));
    }
    const uint64_t name_bytes = at<uint16_t>(begin + 28);
    const uint64_t extra_bytes = at<uint16_t>(begin + 30);
    const uint64_t all = kCentralBytes + name_bytes + extra_bytes + at<uint16_t>(begin + 32);
    if (directory_end_ - begin < all) return bad("has a zip directory that ends inside an entry");
    at_ = begin + all;

    Header header;
    header.name = {reinterpret_cast<const char*>(file_.data()) + begin + kCentralBytes, name_bytes};
    if (!is_safe_name(header.name)) return bad_entry(header.name, "has a name that is no relative path");
    if (at<uint16_t>(begin + 8) & kEncrypted) {
      return unsupported(std::string(path_) + ": zip entry " + quote_for_message(header.name) +
                         " is encrypted");
    }
    if (at<uint16_t>(begin + 10) != 0) {
      return unsupported(std::string(path_) + ": zip entry " + quote_for_message(header.name) +
                         " is compressed; torch.save stores entries as they are");
    }
    uint64_t stored = at<uint32_t>(begin + 20);
    header.bytes = at<uint32_t>(begin + 24);
    header.local = at<uint32_t>(begin + 42);
    uint64_t* const wide[] = {&header.bytes, &stored, &header.local};  // the order of the zip64 field
    LONGHAUL_TRY(widen(header.name, begin + kCentralBytes + name_bytes, extra_bytes, wide));
    const uint16_t disk = at<uint16_t>(begin + 34);
    if (disk != 0 && disk != kIn64Short) return bad_entry(header.name, "is on another disk");
    if (stored != header.bytes) return bad_entry(header.name, "is stored with two different sizes");
    return header;
  }

  // Takes the values that did not fit 32 bits from the zip64 field.
  Status widen(std::string_view name, uint64_t extra, uint64_t extra_bytes, std::span<uint64_t* const> values) {
    const uint64_t end = extra + extra_bytes;
    uint64_t field = 0, field_end = 0;
    for (uint64_t begin = extra; begin < end;) {
      if (end - begin < 4 || end - begin - 4 < at<uint16_t>(begin + 2))
        return bad_entry(name, "has broken extra fields");
      const uint64_t next = begin + 4 + at<uint16_t>(begin + 2);
      if (at<uint16_t>(begin) == kZip64Field && field == 0) {
        field = begin + 4;
        field_end = next;
      }
      begin = next;
    }
    for (uint64_t* value : values) {
      if (*value != kIn64) continue;
      if (field_end - field < 8) return bad_entry(name, "lacks its zip64 sizes");
      *value = at<uint64_t>(field);
      field += 8;
    }
    return {};
  }

  Result<ZipEntry> read_local(const Header& header, uint64_t limit) {
    const auto wrong = [&] { return bad_entry(header.name, "does not match its local header"); };
    const uint64_t begin = header.local;
    if (begin > limit || limit - begin < kLocalBytes || at<uint32_t>(begin) != kLocalSignature) return wrong();
    const uint64_t name_bytes = at<uint16_t>(begin + 26);
    const uint64_t head = kLocalBytes + name_bytes + at<uint16_t>(begin + 28);
    if (limit - begin < head || name_bytes != header.name.size()) return wrong();
    const std::string_view name(reinterpret_cast<const char*>(file_.data()) + begin + kLocalBytes, name_bytes);
    if (name != header.name || at<uint16_t>(begin + 8) != 0 || (at<uint16_t>(begin + 6) & kEncrypted))
      return wrong();
    for (const uint64_t place : {begin + 18, begin + 22}) {
      const uint32_t size = at<uint32_t>(place);
      const bool elsewhere = size == kIn64 || (size == 0 && (at<uint16_t>(begin + 6) & kSizesBehind));
      if (!elsewhere && size != header.bytes) return wrong();
    }
    if (header.bytes > limit - begin - head) {
      return bad_entry(header.name, "has " + std::to_string(header.bytes) + " bytes, more than the file");
    }
    return ZipEntry{header.name, begin + head, header.bytes};
  }

  Status check_places() {
    std::sort(places_.begin(), places_.end());
    for (size_t i = 1; i < places_.size(); ++i) {
      if (places_[i].first < places_[i - 1].second) return bad("has zip entries that overlap");
    }
    std::sort(entries_.begin(), entries_.end(),
              [](const ZipEntry& a, const ZipEntry& b) { return a.name < b.name; });
    for (size_t i = 1; i < entries_.size(); ++i) {
      if (entries_[i].name == entries_[i - 1].name) return bad_entry(entries_[i].name, "is there twice");
    }
    return {};
  }

  std::span<const std::byte> file_;
  std::string_view path_;
  uint64_t directory_end_ = 0;
  std::vector<ZipEntry> entries_;
  std::vector<std::pair<uint64_t, uint64_t>> places_;  // [local header, end of the contents)
};

}  // namespace

Result<std::vector<ZipEntry>> parse_zip(std::span<const std::byte> file, std::string_view path) {
  return ZipReader(file, path).read();
}

}  // namespace longhaul
