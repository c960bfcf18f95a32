#include "files/torch_archive.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "files/json.h"
#include "files/torch_pickle.h"
#include "files/zip.h"

namespace longhaul {
namespace {

constexpr std::string_view kPickleName = "/data.pkl";

const ZipEntry* find(const std::vector<ZipEntry>& entries, std::string_view name) {
  const auto place = std::lower_bound(entries.begin(), entries.end(), name,
                                      [](const ZipEntry& entry, std::string_view n) { return entry.name < n; });
  return place != entries.end() && place->name == name ? &*place : nullptr;
}

// torch.save puts everything into one directory, named after the file.
Result<std::string> find_root(const std::vector<ZipEntry>& entries, std::string_view path) {
  const auto bad = [&](const std::string& what) { return corrupt_file(std::string(path) + ": " + what); };
  if (entries.empty()) return bad("is an empty zip archive");
  const std::string_view root = entries[0].name.substr(0, entries[0].name.find('/'));
  if (!find(entries, std::string(root).append(kPickleName))) {
    return bad("is a zip archive without data.pkl; was it written by torch.save?");
  }
  for (const ZipEntry& entry : entries) {
    if (entry.name.size() > root.size() && entry.name.starts_with(root) && entry.name[root.size()] == '/')
      continue;
    return bad("zip entry " + quote_for_message(entry.name) + " is outside of " + quote_for_message(root));
  }
  return std::string(root);
}

// Elements from the first to behind the last one that the tensor touches; nothing when that does not fit.
std::optional<int64_t> extent_of(const PickledTensor& tensor) {
  int64_t last = tensor.offset;
  int64_t elements = 1;
  for (size_t i = 0; i < tensor.shape.size(); ++i) {
    int64_t reach = 0;
    if (__builtin_mul_overflow(elements, std::max<int64_t>(tensor.shape[i], 1), &elements) ||
        __builtin_mul_overflow(std::max<int64_t>(tensor.shape[i], 1) - 1, tensor.stride[i], &reach) ||
        __builtin_add_overflow(last, reach, &last)) {
      return std::nullopt;
    }
  }
  // Readers multiply by the size of an element.
  if (last > INT64_MAX / 8 || elements > INT64_MAX / 8) return std::nullopt;
  const bool empty = std::find(tensor.shape.begin(), tensor.shape.end(), 0) != tensor.shape.end();
  return empty ? tensor.offset : last + 1;
}

}  // namespace

Result<std::vector<StridedEntry>> parse_torch_archive(std::span<const std::byte> file, std::string_view path) {
  LONGHAUL_ASSIGN(const std::vector<ZipEntry> entries, parse_zip(file, path));
  LONGHAUL_ASSIGN(const std::string root, find_root(entries, path));
  if (const ZipEntry* order = find(entries, root + "/byteorder")) {
    const std::string_view text(reinterpret_cast<const char*>(file.data()) + order->offset, order->bytes);
    if (text != "little") {
      return unsupported(std::string(path) + ": has byte order " + quote_for_message(text) +
                         "; save it again on a little-endian machine");
    }
  }
  const ZipEntry& pickle = *find(entries, std::string(root).append(kPickleName));
  LONGHAUL_ASSIGN(std::vector<PickledTensor> tensors,
                  parse_torch_pickle(file.subspan(pickle.offset, pickle.bytes), path));
  std::vector<StridedEntry> result;
  result.reserve(tensors.size());
  for (PickledTensor& tensor : tensors) {
    const auto wrong = [&](const std::string& what) {
      return corrupt_file(std::string(path) + ": tensor " + quote_for_message(tensor.name) + " " + what);
    };
    const ZipEntry* storage = find(entries, root + "/data/" + tensor.storage);
    if (!storage) return wrong("is in storage " + tensor.storage + ", which the file lacks");
    const size_t size = size_of(tensor.dtype);
    const auto elements = static_cast<uint64_t>(tensor.storage_elements);
    if (storage->bytes % size != 0 || storage->bytes / size != elements) {
      return wrong("is in storage " + tensor.storage + " of " + std::to_string(storage->bytes) +
                   " bytes, not the " + std::to_string(elements) + " elements of " + name_of(tensor.dtype) +
                   " it should have; the file is damaged, fetch it again");
    }
    const std::optional<int64_t> extent = extent_of(tensor);
    if (!extent || static_cast<uint64_t>(*extent) > elements) {
      return wrong("reaches behind the " + std::to_string(elements) + " elements of its storage");
    }
    result.push_back({std::move(tensor.name), tensor.dtype, std::move(tensor.shape), std::move(tensor.stride),
                      storage->offset + static_cast<size_t>(tensor.offset) * size});
  }
  return result;
}

}  // namespace longhaul
