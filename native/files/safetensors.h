// Checkpoints in the safetensors format: one file, or shards and their index.
// Format: https://huggingface.co/docs/safetensors/index#format
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/status.h"
#include "core/tensor.h"
#include "files/mapped_file.h"

namespace longhaul {

struct TensorEntry {
  std::string name;
  std::string_view format_dtype;  // as the format spells it: "BF16", "I64"
  std::optional<DType> dtype;     // nothing for element types the engine has no use for
  std::vector<int64_t> shape;     // outermost first, empty for a scalar
  size_t offset = 0;              // of the first byte, from the start of the file
  size_t bytes = 0;
};

inline constexpr size_t kSafetensorsMaxHeader = 100'000'000;  // the limit of the format
inline constexpr size_t kSafetensorsMaxRank = 8;

// Checks the header of a whole file in memory and returns its tensors in the order of their bytes. On success
// every [offset, offset + bytes) lies inside `file`, they do not overlap, leave no hole, and match dtype x
// shape. kCorruptFile names `path`, the tensor and what is wrong.
Result<std::vector<TensorEntry>> parse_safetensors(std::span<const std::byte> file, std::string_view path);

// A dense tensor read from a file. `tensor.data` is read-only: writing to it crashes.
struct SourceTensor {
  Tensor tensor;
  // The format promises no alignment. Holds the elements when they are not aligned in the file, else null and
  // `tensor` points into the mapping.
  std::unique_ptr<std::byte[]> aligned_copy;
};

class SafetensorsFile {
 public:
  static Result<SafetensorsFile> open(const std::string& path);

  // In the order of their bytes.
  const std::vector<TensorEntry>& entries() const { return entries_; }
  // Null when there is no such tensor.
  const TensorEntry* find(std::string_view name) const;

  // Valid while this object lives (moving it is fine). kCorruptFile when there is no tensor `name`;
  // kUnsupported when it has an element type outside DType or more than Tensor::kMaxRank dimensions.
  Result<SourceTensor> load(std::string_view name) const;
  // Gives the memory of the tensor's pages back to the system; it can be loaded again.
  void release(std::string_view name) const;

  const std::string& path() const { return file_.path(); }

 private:
  SafetensorsFile(MappedFile file, std::vector<TensorEntry> entries);

  MappedFile file_;
  std::vector<TensorEntry> entries_;
  std::vector<uint32_t> by_name_;  // indices into entries_, sorted by name
};

// The weights in a model directory: model.safetensors, else the shards of model.safetensors.index.json. Shards
// are files of the same directory; a tensor the index does not name is not part of the checkpoint.
class Checkpoint {
 public:
  // kInvalidArgument when the directory holds neither; kCorruptFile when a shard is missing, lacks a tensor of
  // the index, or is named as a path.
  static Result<Checkpoint> open(const std::string& directory);

  const TensorEntry* find(std::string_view name) const;
  // As SafetensorsFile's.
  Result<SourceTensor> load(std::string_view name) const;
  void release(std::string_view name) const;
  // All names, sorted.
  std::vector<std::string_view> names() const;

  const std::string& directory() const { return directory_; }

 private:
  Checkpoint() = default;

  std::string directory_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, uint32_t, std::less<>> file_of_;  // tensor name -> index into files_
};

}  // namespace longhaul
