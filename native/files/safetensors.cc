#include "files/safetensors.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <new>
#include <numeric>
#include <utility>

#include "files/json.h"

namespace longhaul {
namespace {

struct FormatType {
  std::string_view name;
  unsigned bits;
  std::optional<DType> dtype;
};

// Every element type the format defines, so that a file with one the engine cannot use is still checked and can
// be read for its other tensors.
constexpr FormatType kFormatTypes[] = {
    {"F32", 32, DType::kF32},
    {"BF16", 16, DType::kBf16},
    {"F16", 16, DType::kF16},
    {"F64", 64, DType::kF64},
    {"I32", 32, DType::kI32},
    {"U32", 32, DType::kU32},
    {"U8", 8, DType::kU8},
    {"BOOL", 8, std::nullopt},
    {"I8", 8, std::nullopt},
    {"I16", 16, std::nullopt},
    {"U16", 16, std::nullopt},
    {"I64", 64, std::nullopt},
    {"U64", 64, std::nullopt},
    {"C64", 64, std::nullopt},
    {"F8_E4M3", 8, std::nullopt},
    {"F8_E5M2", 8, std::nullopt},
    {"F8_E8M0", 8, std::nullopt},
    {"F8_E4M3FNUZ", 8, std::nullopt},
    {"F8_E5M2FNUZ", 8, std::nullopt},
    {"F6_E2M3", 6, std::nullopt},
    {"F6_E3M2", 6, std::nullopt},
    {"F4", 4, std::nullopt},
};

const FormatType* find_format_type(std::string_view name) {
  for (const FormatType& type : kFormatTypes) {
    if (type.name == name) return &type;
  }
  return nullptr;
}

Status bad(std::string_view path, const std::string& what) {
  return corrupt_file(std::string(path) + ": " + what);
}

std::string tensor_message(std::string_view name, const std::string& what) {
  return "tensor " + quote_for_message(name) + " " + what;
}

// A count in the header: a JSON integer, not negative.
std::optional<uint64_t> count_of(const Json& json) {
  const std::optional<int64_t> value = json.as_int64();
  if (!value || *value < 0) return std::nullopt;
  return static_cast<uint64_t>(*value);
}

// The tensor one member of the header describes; `data_begin` and `data_bytes` are those of the byte buffer in
// the file.
Result<TensorEntry> parse_entry(const Json::Member& member, uint64_t data_begin, uint64_t data_bytes,
                                std::string_view path) {
  const auto wrong = [&](const std::string& what) { return bad(path, tensor_message(member.name, what)); };
  if (!member.value.is_object()) return wrong("is described by " + std::string(member.value.kind_name()));
  const Json* dtype = member.value.find("dtype");
  const Json* shape = member.value.find("shape");
  const Json* offsets = member.value.find("data_offsets");
  if (!dtype || !dtype->as_string()) return wrong("has no dtype");
  if (!shape || !shape->is_array()) return wrong("has no shape");
  if (!offsets || offsets->items().size() != 2) return wrong("has no data_offsets [begin, end]");

  const FormatType* type = find_format_type(*dtype->as_string());
  if (!type) return wrong("has the unknown dtype " + quote_for_message(*dtype->as_string()));

  TensorEntry entry;
  entry.name = member.name;
  entry.format_dtype = type->name;
  entry.dtype = type->dtype;
  if (shape->items().size() > kSafetensorsMaxRank) {
    return wrong("has " + std::to_string(shape->items().size()) + " dimensions, more than " +
                 std::to_string(kSafetensorsMaxRank));
  }
  // The product without its zeros is what the strides need: [0, 2^62, 2^62] has no bytes and no valid strides.
  uint64_t extents = type->bits;
  uint64_t bits = type->bits;
  for (const Json& item : shape->items()) {
    const std::optional<uint64_t> extent = count_of(item);
    if (!extent) return wrong("has a shape that is not a list of whole numbers >= 0");
    if (__builtin_mul_overflow(extents, std::max<uint64_t>(*extent, 1), &extents) ||
        extents > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return wrong("has a shape whose size does not fit 63 bits");
    }
    bits *= *extent;  // <= extents
    entry.shape.push_back(static_cast<int64_t>(*extent));
  }
  if (bits % 8 != 0) return wrong("ends in the middle of a byte");

  const std::optional<uint64_t> begin = count_of(offsets->items()[0]);
  const std::optional<uint64_t> end = count_of(offsets->items()[1]);
  if (!begin || !end || *begin > *end) return wrong("has data_offsets that are not begin <= end");
  if (*end > data_bytes) {
    return wrong("ends at byte " + std::to_string(*end) + " of the data, which has only " +
                 std::to_string(data_bytes) + "; the file is truncated, fetch it again");
  }
  if (*end - *begin != bits / 8) {
    return wrong("has " + std::to_string(*end - *begin) + " bytes where its dtype and shape need " +
                 std::to_string(bits / 8));
  }
  entry.offset = data_begin + *begin;
  entry.bytes = *end - *begin;
  return entry;
}

Status check_metadata(const Json& metadata, std::string_view path) {
  if (!metadata.is_object())
    return bad(path, "__metadata__ is " + std::string(metadata.kind_name()) + ", not an object");
  for (const Json::Member& member : metadata.members()) {
    if (!member.value.as_string())
      return bad(path, "__metadata__ " + quote_for_message(member.name) + " is not a string");
  }
  return {};
}

// Sorts by place and checks that the tensors cover the byte buffer, each byte once: the format's rule, so that
// nothing hides in a file and no two names share memory.
Status check_cover(std::vector<TensorEntry>& entries, size_t data_begin, size_t file_bytes,
                   std::string_view path) {
  std::sort(entries.begin(), entries.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return std::pair(a.offset, a.bytes) < std::pair(b.offset, b.bytes);
  });
  size_t covered = data_begin;
  for (const TensorEntry& entry : entries) {
    if (entry.offset < covered) return bad(path, tensor_message(entry.name, "overlaps the tensor before it"));
    if (entry.offset > covered) {
      return bad(path, tensor_message(entry.name, "comes after " + std::to_string(entry.offset - covered) +
                                                      " bytes that belong to no tensor"));
    }
    covered += entry.bytes;
  }
  if (covered != file_bytes) {
    return bad(path, "the last " + std::to_string(file_bytes - covered) + " bytes belong to no tensor");
  }
  return {};
}

Result<SourceTensor> view(const TensorEntry& entry, const MappedFile& file) {
  const auto cannot = [&](const std::string& what) {
    return unsupported(file.path() + ": " + tensor_message(entry.name, what));
  };
  if (!entry.dtype) {
    return cannot("has dtype " + std::string(entry.format_dtype) + "; use F32, BF16, F16, F64, I32, U32 or U8");
  }
  if (entry.shape.size() > Tensor::kMaxRank) {
    return cannot("has " + std::to_string(entry.shape.size()) + " dimensions, more than " +
                  std::to_string(Tensor::kMaxRank));
  }
  SourceTensor source;
  const std::byte* data = file.bytes().data() + entry.offset;
  if (reinterpret_cast<uintptr_t>(data) % size_of(*entry.dtype) != 0) {
    source.aligned_copy.reset(new (std::nothrow) std::byte[std::max<size_t>(entry.bytes, 1)]);
    if (!source.aligned_copy) {
      return out_of_memory(
          file.path() + ": " +
          tensor_message(entry.name, "needs " + std::to_string(entry.bytes) + " bytes to be copied to"));
    }
    std::memcpy(source.aligned_copy.get(), data, entry.bytes);
    data = source.aligned_copy.get();
  }
  Tensor& tensor = source.tensor;
  tensor.data = const_cast<std::byte*>(data);
  tensor.dtype = *entry.dtype;
  tensor.rank = static_cast<uint8_t>(entry.shape.size());
  int64_t stride = 1;
  for (int i = tensor.rank - 1; i >= 0; --i) {
    tensor.shape[i] = entry.shape[i];
    tensor.stride[i] = stride;
    stride *= entry.shape[i];
  }
  return source;
}

Status no_tensor(const std::string& path, std::string_view name) {
  return bad(path, "has no tensor " + quote_for_message(name) + "; is it the checkpoint of another model?");
}

}  // namespace

Result<std::vector<TensorEntry>> parse_safetensors(std::span<const std::byte> file, std::string_view path) {
  constexpr size_t kLengthBytes = 8;
  if (file.size() < kLengthBytes) {
    return bad(path, "has " + std::to_string(file.size()) + " bytes, too few for a safetensors header");
  }
  uint64_t header_bytes = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) {
    header_bytes |= static_cast<uint64_t>(std::to_integer<uint8_t>(file[i])) << (8 * i);
  }
  if (header_bytes > kSafetensorsMaxHeader) {
    return bad(path, "claims a header of " + std::to_string(header_bytes) + " bytes, more than " +
                         std::to_string(kSafetensorsMaxHeader) + "; is it a safetensors file?");
  }
  if (header_bytes > file.size() - kLengthBytes) {
    return bad(path, "claims a header of " + std::to_string(header_bytes) + " bytes in a file of " +
                         std::to_string(file.size()) + "; the file is truncated, fetch it again");
  }
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + kLengthBytes, header_bytes);
  // The format's own rule; JSON alone would allow white space here.
  if (text.empty() || text.front() != '{') return bad(path, "has a header that does not begin with '{'");
  LONGHAUL_ASSIGN(const Json header, parse_json(text, path));

  const size_t data_begin = kLengthBytes + header_bytes;
  std::vector<TensorEntry> entries;
  entries.reserve(header.members().size());
  for (const Json::Member& member : header.members()) {
    if (member.name == "__metadata__") {
      LONGHAUL_TRY(check_metadata(member.value, path));
      continue;
    }
    LONGHAUL_ASSIGN(TensorEntry entry, parse_entry(member, data_begin, file.size() - data_begin, path));
    entries.push_back(std::move(entry));
  }
  LONGHAUL_TRY(check_cover(entries, data_begin, file.size(), path));
  return entries;
}

SafetensorsFile::SafetensorsFile(MappedFile file, std::vector<TensorEntry> entries)
    : file_(std::move(file)), entries_(std::move(entries)), by_name_(entries_.size()) {
  std::iota(by_name_.begin(), by_name_.end(), 0u);
  std::sort(by_name_.begin(), by_name_.end(),
            [&](uint32_t a, uint32_t b) { return entries_[a].name < entries_[b].name; });
}

Result<SafetensorsFile> SafetensorsFile::open(const std::string& path) {
  LONGHAUL_ASSIGN(MappedFile file, MappedFile::open(path));
  LONGHAUL_ASSIGN(std::vector<TensorEntry> entries, parse_safetensors(file.bytes(), path));
  return SafetensorsFile(std::move(file), std::move(entries));
}

const TensorEntry* SafetensorsFile::find(std::string_view name) const {
  const auto place =
      std::lower_bound(by_name_.begin(), by_name_.end(), name,
                       [&](uint32_t i, std::string_view wanted) { return entries_[i].name < wanted; });
  return place != by_name_.end() && entries_[*place].name == name ? &entries_[*place] : nullptr;
}

Result<SourceTensor> SafetensorsFile::load(std::string_view name) const {
  const TensorEntry* entry = find(name);
  if (!entry) return no_tensor(path(), name);
  return view(*entry, file_);
}

void SafetensorsFile::release(std::string_view name) const {
  if (const TensorEntry* entry = find(name)) file_.release(entry->offset, entry->bytes);
}

}  // namespace longhaul
