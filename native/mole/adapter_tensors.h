// The tensors of an adapter's file, whichever format it has.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/status.h"
#include "core/tensor.h"
#include "files/torch_archive.h"

namespace longhaul {

class AdapterTensors {
 public:
  // `file` is safetensors or a zip of torch.save, which its first bytes tell; it has to outlive this object.
  // Errors are those of parse_safetensors and parse_torch_archive; kUnsupported: a tensor that is neither f32,
  // bf16 nor f16.
  static Result<AdapterTensors> parse(std::span<const std::byte> file, std::string_view path);

  // Null when there is no such tensor.
  const StridedEntry* find(std::string_view name) const;
  const std::vector<StridedEntry>& entries() const { return entries_; }
  const std::string& path() const { return path_; }
  size_t file_bytes() const { return file_.size(); }

  // Copies the elements, row-major, into `out`: dense, of as many elements, f32 or the entry's own dtype.
  // kCorruptFile names the tensor when it holds NaN or infinity.
  Status copy(const StridedEntry& entry, const Tensor& out) const;

 private:
  std::span<const std::byte> file_;
  std::string path_;
  std::vector<StridedEntry> entries_;
  std::map<std::string, size_t, std::less<>> by_name_;
};

}  // namespace longhaul
