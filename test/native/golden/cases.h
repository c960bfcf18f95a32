// Finding cases in a tree laid out like shared/fixtures.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/status.h"
#include "files/json.h"

namespace longhaul::golden {

// One folder with a case.json.
struct CaseFolder {
  std::string directory;  // absolute
  std::string root;       // the folder of index.json at or above what was asked for; without one, that itself
  std::string name;       // directory relative to root; of the root itself, its last part
  bool named = false;     // asked for by its own path, not found below one
};

// Every case at or below `path` (a folder or a case.json), sorted by directory. kInvalidArgument when there is
// none.
Result<std::vector<CaseFolder>> find_cases(const std::string& path);

struct Case : CaseFolder {
  Json json;
  std::string kind;

  std::string file(std::string_view name) const { return directory + "/" + std::string(name); }

  // kCorruptFile unless case.json has the member `key` of that kind, in `object` where one is given.
  Result<int64_t> integer(std::string_view key, const Json* object = nullptr) const;
  Result<std::string> text(std::string_view key, const Json* object = nullptr) const;
  Result<const Json*> object(std::string_view key) const;
  // The folder of the model that the member `model` names.
  Result<std::string> model_directory() const;
};

Result<Case> read_case(const CaseFolder& folder);

}  // namespace longhaul::golden
