#include "golden_file.h"

#include <cmath>

#include "files/json.h"

namespace longhaul::golden {

Result<GoldenFile> GoldenFile::open(const std::string& path) {
  LONGHAUL_ASSIGN(SafetensorsFile file, SafetensorsFile::open(path));
  return GoldenFile(std::move(file));
}

std::vector<std::string> GoldenFile::names() const {
  std::vector<std::string> names;
  for (const TensorEntry& entry : file_.entries()) names.push_back(entry.name);
  return names;
}

Result<Array> GoldenFile::read(std::string_view name) const {
  LONGHAUL_ASSIGN(const SourceTensor source, file_.load(name));
  return to_array(source.tensor);
}

Result<std::vector<int32_t>> GoldenFile::read_ids(std::string_view name, int64_t end) const {
  LONGHAUL_ASSIGN(const Array array, read(name));
  if (array.shape.size() != 1) {
    return corrupt_file(file_.path() + ": " + quote_for_message(name) + " has shape " + describe(array.shape) +
                        ", ids have one dimension");
  }
  std::vector<int32_t> ids;
  for (double value : array.values) {
    if (!(value >= 0 && value < static_cast<double>(end) && value == std::floor(value))) {
      return corrupt_file(file_.path() + ": " + quote_for_message(name) + " holds " + std::to_string(value) +
                          ", not an integer in [0, " + std::to_string(end) + ")");
    }
    ids.push_back(static_cast<int32_t>(value));
  }
  return ids;
}

}  // namespace longhaul::golden
