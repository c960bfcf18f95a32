// Pickles in memory, instruction by instruction, as Python's pickletools names them; and files of torch.save.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "files/zip_bytes.h"

namespace longhaul::pickle {

inline const std::string kProto = "\x80\x02";
inline const std::string kStop = ".";
inline const std::string kMark = "(";
inline const std::string kTuple = "t";
inline const std::string kEmptyTuple = ")";
inline const std::string kTuple1 = "\x85";
inline const std::string kTuple2 = "\x86";
inline const std::string kTuple3 = "\x87";
inline const std::string kEmptyDict = "}";
inline const std::string kSetItem = "s";
inline const std::string kSetItems = "u";
inline const std::string kReduce = "R";
inline const std::string kPersistentId = "Q";
inline const std::string kTrue = "\x88";
inline const std::string kFalse = "\x89";

inline std::string global(std::string_view module, std::string_view name) {
  return std::string("c") + std::string(module) + "\n" + std::string(name) + "\n";
}
inline std::string text(std::string_view value) {
  return std::string("X") + little_endian(value.size(), 4) + std::string(value);
}
inline std::string integer(int64_t value) {
  if (value >= INT32_MIN && value <= INT32_MAX)
    return std::string("J") + little_endian(static_cast<uint64_t>(value), 4);
  return std::string("\x8a\x08") + little_endian(static_cast<uint64_t>(value), 8);
}
inline std::string tuple(const std::vector<std::string>& items) {
  std::string all = kMark;
  for (const std::string& item : items) all += item;
  return all + kTuple;
}
inline std::string put(uint32_t slot) {
  return std::string("r") + little_endian(slot, 4);
}
inline std::string get(uint32_t slot) {
  return std::string("j") + little_endian(slot, 4);
}
inline std::string empty_hooks() {
  return global("collections", "OrderedDict") + kEmptyTuple + kReduce;
}

struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<int64_t> stride;
  std::string storage = "0";
  int64_t storage_elements = 0;
  int64_t offset = 0;
  std::string type = "FloatStorage";
  bool parameter = false;
};

inline std::string storage(const TensorSpec& spec) {
  return tuple({text("storage"), global("torch", spec.type), text(spec.storage), text("cpu"),
                integer(spec.storage_elements)}) +
         kPersistentId;
}
inline std::string integers(const std::vector<int64_t>& values) {
  std::vector<std::string> items;
  for (const int64_t value : values) items.push_back(integer(value));
  return tuple(items);
}
inline std::string tensor(const TensorSpec& spec) {
  const std::string plain = global("torch._utils", "_rebuild_tensor_v2") +
                            tuple({storage(spec), integer(spec.offset), integers(spec.shape),
                                   integers(spec.stride), kFalse, empty_hooks()}) +
                            kReduce;
  if (!spec.parameter) return plain;
  return global("torch._utils", "_rebuild_parameter") + tuple({plain, kTrue, empty_hooks()}) + kReduce;
}

// {name: tensor, ...}
inline std::string dictionary(const std::vector<TensorSpec>& tensors) {
  std::string all = kProto + kEmptyDict + kMark;
  for (const TensorSpec& spec : tensors) all += text(spec.name) + tensor(spec);
  return all + kSetItems + kStop;
}

// The zip around a pickle; storages[i] becomes data/i.
inline std::vector<ZipMember> torch_members(const std::string& pickle,
                                            const std::vector<std::string>& storages) {
  std::vector<ZipMember> members = {{.name = "adapter_model/data.pkl", .data = pickle, .flags = 0x0808},
                                    {.name = "adapter_model/byteorder", .data = "little", .flags = 0x0808}};
  for (size_t i = 0; i < storages.size(); ++i) {
    members.push_back(
        {.name = "adapter_model/data/" + std::to_string(i), .data = storages[i], .flags = 0x0808});
  }
  members.push_back({.name = "adapter_model/version", .data = "3\n", .flags = 0x0808});
  return members;
}
inline std::string torch_bytes(const std::string& pickle, const std::vector<std::string>& storages) {
  return zip_bytes(torch_members(pickle, storages), {.zip64 = true});
}

}  // namespace longhaul::pickle
