// Any bytes are a file of torch.save whose tensors lie inside it, or refused; as a bare pickle too.
#include <cstddef>
#include <cstdint>
#include <span>

#include "files/torch_archive.h"
#include "files/torch_pickle.h"
#include "files/zip.h"

namespace longhaul {
namespace {

// Keeps the compiler from leaving the reads out.
volatile unsigned checksum;

bool is_refusal(Code code) {
  return code == Code::kCorruptFile || code == Code::kUnsupported;
}

void check_zip(std::span<const std::byte> file) {
  const auto entries = parse_zip(file, "fuzz");
  if (!entries.ok()) {
    if (!is_refusal(entries.status().code())) __builtin_trap();
    return;
  }
  for (const ZipEntry& entry : entries.value()) {
    if (entry.offset > file.size() || entry.bytes > file.size() - entry.offset) __builtin_trap();
  }
}

void check_pickle(std::span<const std::byte> pickle) {
  const auto tensors = parse_torch_pickle(pickle, "fuzz");
  if (!tensors.ok()) {
    if (!is_refusal(tensors.status().code())) __builtin_trap();
    return;
  }
  for (const PickledTensor& tensor : tensors.value()) {
    if (tensor.shape.size() != tensor.stride.size() || tensor.shape.size() > kPickleMaxTensorRank)
      __builtin_trap();
    if (tensor.storage.find_first_not_of("0123456789") != tensor.storage.npos) __builtin_trap();
  }
}

void check_archive(std::span<const std::byte> file) {
  const auto tensors = parse_torch_archive(file, "fuzz");
  if (!tensors.ok()) {
    if (!is_refusal(tensors.status().code())) __builtin_trap();
    return;
  }
  unsigned sum = 0;
  for (const StridedEntry& tensor : tensors.value()) {
    // The corners are the first and last element: all others lie between them.
    size_t last = tensor.offset;
    bool empty = false;
    for (size_t d = 0; d < tensor.shape.size(); ++d) {
      empty |= tensor.shape[d] == 0;
      if (!empty) last += static_cast<size_t>((tensor.shape[d] - 1) * tensor.stride[d]) * size_of(tensor.dtype);
    }
    if (empty) continue;
    for (size_t i = 0; i < size_of(tensor.dtype); ++i) {
      sum += std::to_integer<unsigned>(file[tensor.offset + i]) + std::to_integer<unsigned>(file[last + i]);
    }
    if (last + size_of(tensor.dtype) > file.size()) __builtin_trap();
  }
  checksum = sum;
}

}  // namespace
}  // namespace longhaul

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  longhaul::check_zip(bytes);
  longhaul::check_archive(bytes);
  longhaul::check_pickle(bytes);
  return 0;
}
