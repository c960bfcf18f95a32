// The pickle inside a file of torch.save, read without ever executing it. A pickle is a program for a machine
// that builds Python objects and can call anything; this reader knows the few instructions and names that a
// dictionary of tensors is written with, and refuses the rest before it does anything.
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

// A strided window on one storage. Not checked against the storage: torch_archive.h does that.
struct PickledTensor {
  std::string name;
  std::string storage;           // its key: the name of a file in data/
  DType dtype = DType::kF32;     // f32, f16 or bf16
  int64_t storage_elements = 0;  // what the pickle says the storage holds
  int64_t offset = 0;            // of the first element
  std::vector<int64_t> shape;    // outermost first
  std::vector<int64_t> stride;   // in elements, as many as extents
};

// What one pickle may make of this process's memory, whatever it says: about 150 MB.
inline constexpr size_t kPickleMaxBytes = size_t{32} << 20;
inline constexpr size_t kPickleMaxStack = size_t{1} << 17;
inline constexpr size_t kPickleMaxMemo = size_t{1} << 20;
inline constexpr size_t kPickleMaxItems = size_t{1} << 21;    // of all tuples
inline constexpr size_t kPickleMaxTensors = size_t{1} << 18;  // and storages, and items of dictionaries
inline constexpr size_t kPickleMaxTensorRank = 8;

// The tensors of a pickled dictionary {name: tensor}, in the order of the pickle. Tensors may be Parameters.
// kCorruptFile names `path`, the byte and the instruction or name that is not allowed.
Result<std::vector<PickledTensor>> parse_torch_pickle(std::span<const std::byte> pickle, std::string_view path);

}  // namespace longhaul
