#include "cases.h"

#include <algorithm>
#include <filesystem>

namespace longhaul::golden {
namespace fs = std::filesystem;
namespace {

constexpr size_t kMaxCaseBytes = 64u << 20;

fs::path root_of(const fs::path& directory) {
  std::error_code error;
  for (fs::path at = directory;; at = at.parent_path()) {
    if (fs::is_regular_file(at / "index.json", error)) return at;
    if (at == at.parent_path()) return directory;
  }
}

}  // namespace

Result<std::vector<CaseFolder>> find_cases(const std::string& path) {
  std::error_code error;
  fs::path start = fs::canonical(path, error);
  if (error) return invalid_argument(path + ": " + error.message());
  if (start.filename() == "case.json") start = start.parent_path();

  const fs::path root = root_of(start);
  std::vector<CaseFolder> cases;
  const auto add = [&](const fs::path& directory) {
    const bool is_root = directory == root;
    cases.push_back({.directory = directory.string(),
                     .root = root.string(),
                     .name = (is_root ? directory.filename() : directory.lexically_relative(root)).string(),
                     .named = directory == start});
  };
  if (fs::is_regular_file(start / "case.json", error)) add(start);
  fs::recursive_directory_iterator walk(start, fs::directory_options::skip_permission_denied, error);
  for (; !error && walk != fs::recursive_directory_iterator(); walk.increment(error)) {
    std::error_code unreadable;
    if (walk->is_directory(unreadable) && fs::is_regular_file(walk->path() / "case.json", unreadable)) {
      add(walk->path());
    }
  }
  if (error) return invalid_argument(path + ": " + error.message());
  if (cases.empty()) return invalid_argument(path + ": there is no case.json in it or below it");
  std::sort(cases.begin(), cases.end(),
            [](const CaseFolder& a, const CaseFolder& b) { return a.directory < b.directory; });
  return cases;
}

Result<Case> read_case(const CaseFolder& folder) {
  Case result;
  static_cast<CaseFolder&>(result) = folder;
  LONGHAUL_ASSIGN(result.json, read_json_file(result.file("case.json"), kMaxCaseBytes));
  LONGHAUL_ASSIGN(result.kind, result.text("kind"));
  return result;
}

Result<int64_t> Case::integer(std::string_view key, const Json* object) const {
  const Json* member = (object != nullptr ? *object : json).find(key);
  const std::optional<int64_t> value = member != nullptr ? member->as_int64() : std::nullopt;
  // No size or count of a case comes near 2^31: what does is not one.
  if (!value || *value < 0 || *value > INT32_MAX) {
    return corrupt_file(file("case.json") + ": " + quote_for_message(key) + " must be an integer in [0, 2^31)");
  }
  return *value;
}

Result<std::string> Case::text(std::string_view key, const Json* object) const {
  const Json* member = (object != nullptr ? *object : json).find(key);
  const std::string* value = member != nullptr ? member->as_string() : nullptr;
  if (value == nullptr) {
    return corrupt_file(file("case.json") + ": " + quote_for_message(key) + " must be a string");
  }
  return *value;
}

Result<const Json*> Case::object(std::string_view key) const {
  const Json* member = json.find(key);
  if (member == nullptr || !member->is_object()) {
    return corrupt_file(file("case.json") + ": " + quote_for_message(key) + " must be an object");
  }
  return member;
}

Result<std::string> Case::model_directory() const {
  LONGHAUL_ASSIGN(const std::string model, text("model"));
  return root + "/" + model;
}

}  // namespace longhaul::golden
