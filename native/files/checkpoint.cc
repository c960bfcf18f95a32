// Class Checkpoint of safetensors.h: which files make up a model.
#include <filesystem>
#include <utility>

#include "files/json.h"
#include "files/safetensors.h"

namespace longhaul {
namespace {

constexpr size_t kMaxIndexBytes = kSafetensorsMaxHeader;

bool exists(const std::string& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

// A shard is a file of the model's own directory: an index must not be able to name any other file of the
// machine.
bool is_plain_file_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == name.npos;
}

}  // namespace

Result<Checkpoint> Checkpoint::open(const std::string& directory) {
  Checkpoint checkpoint;
  checkpoint.directory_ = directory;
  const std::string single = directory + "/model.safetensors";
  const std::string index = single + ".index.json";
  if (exists(single)) {
    LONGHAUL_ASSIGN(SafetensorsFile file, SafetensorsFile::open(single));
    for (const TensorEntry& entry : file.entries()) checkpoint.file_of_.emplace(entry.name, 0);
    checkpoint.files_.push_back(std::move(file));
    return checkpoint;
  }
  if (!exists(index)) {
    return invalid_argument(directory +
                            ": holds neither model.safetensors nor model.safetensors.index.json; "
                            "give the directory of a model in the safetensors format");
  }

  LONGHAUL_ASSIGN(const Json json, read_json_file(index, kMaxIndexBytes));
  const Json* weight_map = json.find("weight_map");
  if (!weight_map || !weight_map->is_object()) {
    return corrupt_file(index + ": has no object \"weight_map\" from tensor names to shard files");
  }
  std::map<std::string, uint32_t, std::less<>> file_of_shard;
  for (const Json::Member& member : weight_map->members()) {
    const std::string tensor = "tensor " + quote_for_message(member.name);
    const std::string* shard = member.value.as_string();
    if (!shard) return corrupt_file(index + ": " + tensor + " has a shard that is no string");
    auto place = file_of_shard.find(*shard);
    if (place == file_of_shard.end()) {
      if (!is_plain_file_name(*shard)) {
        return corrupt_file(index + ": " + tensor + " is in shard " + quote_for_message(*shard) +
                            ", which is not the name of a file in the same directory");
      }
      const std::string path = directory + "/" + *shard;
      if (!exists(path)) {
        return corrupt_file(index + ": " + tensor + " is in shard " + quote_for_message(*shard) +
                            ", which is missing; fetch it again");
      }
      LONGHAUL_ASSIGN(SafetensorsFile file, SafetensorsFile::open(path));
      place = file_of_shard.emplace(*shard, static_cast<uint32_t>(checkpoint.files_.size())).first;
      checkpoint.files_.push_back(std::move(file));
    }
    if (!checkpoint.files_[place->second].find(member.name)) {
      return corrupt_file(index + ": " + tensor + " is not in its shard " + quote_for_message(*shard));
    }
    checkpoint.file_of_.emplace(member.name, place->second);
  }
  return checkpoint;
}

const TensorEntry* Checkpoint::find(std::string_view name) const {
  const auto place = file_of_.find(name);
  return place == file_of_.end() ? nullptr : files_[place->second].find(name);
}

Result<SourceTensor> Checkpoint::load(std::string_view name) const {
  const auto place = file_of_.find(name);
  if (place == file_of_.end()) {
    return corrupt_file(directory_ + ": the checkpoint has no tensor " + quote_for_message(name) +
                        "; does config.json belong to it?");
  }
  return files_[place->second].load(name);
}

void Checkpoint::release(std::string_view name) const {
  if (const auto place = file_of_.find(name); place != file_of_.end()) files_[place->second].release(name);
}

std::vector<std::string_view> Checkpoint::names() const {
  std::vector<std::string_view> names;
  names.reserve(file_of_.size());
  for (const auto& [name, file] : file_of_) names.push_back(name);
  return names;
}

}  // namespace longhaul
