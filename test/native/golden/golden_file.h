// The stored arrays of a case.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "array.h"
#include "files/safetensors.h"

namespace longhaul::golden {

class GoldenFile {
 public:
  static Result<GoldenFile> open(const std::string& path);

  bool has(std::string_view name) const { return file_.find(name) != nullptr; }
  std::vector<std::string> names() const;

  Result<Array> read(std::string_view name) const;
  // One dimension of integers in [0, end).
  Result<std::vector<int32_t>> read_ids(std::string_view name, int64_t end) const;

 private:
  explicit GoldenFile(SafetensorsFile file) : file_(std::move(file)) {}

  SafetensorsFile file_;
};

}  // namespace longhaul::golden
