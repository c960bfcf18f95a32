// Files of torch.save (1.6 and newer): a zip of one pickle and the bytes of storages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"
#include "core/status.h"

namespace longhaul {

// A window on the bytes of a file. No alignment is promised.
struct StridedEntry {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;   // outermost first
  std::vector<int64_t> stride;  // in elements
  size_t offset = 0;            // of the first element, from the start of the file
};

// Checks a whole file in memory and returns the tensors of its dictionary. On success every element of every
// tensor lies inside the contents of its storage's entry in `file`; tensors may share storages and elements.
// kCorruptFile and kUnsupported as parse_zip and parse_torch_pickle, or name `path`, the tensor and its
// storage.
Result<std::vector<StridedEntry>> parse_torch_archive(std::span<const std::byte> file, std::string_view path);

}  // namespace longhaul
