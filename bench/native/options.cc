#include "options.h"

#include <cstdlib>

#include "shapes.h"

namespace longhaul::bench {
namespace {

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    size_t end = text.find(',', begin);
    if (end == std::string::npos) end = text.size();
    if (end > begin) parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

Status check_models(const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    bool known = false;
    std::string all;
    for (const ModelShape& shape : model_shapes()) {
      known |= name == shape.name;
      all += std::string(all.empty() ? "" : ", ") + shape.name;
    }
    if (!known) return invalid_argument("--models: '" + name + "' is none of " + all);
  }
  return {};
}

}  // namespace

Result<Options> parse_options(int count, char** arguments) {
  Options options;
  for (int i = 1; i < count; ++i) {
    const std::string name = arguments[i];
    if (name == "--quick") {
      options.quick = true;
    } else if (name == "--json") {
      options.json = true;
    } else if (name == "--list") {
      options.list = true;
    } else if (name == "--device" || name == "--threads" || name == "--models" || name == "--filter") {
      if (i + 1 == count) return invalid_argument(name + " needs a value");
      const std::string value = arguments[++i];
      if (name == "--device") {
        options.device = value;
      } else if (name == "--filter") {
        options.filter = value;
      } else if (name == "--models") {
        options.models = split(value);
        LONGHAUL_TRY(check_models(options.models));
      } else {
        for (const std::string& part : split(value)) {
          const long threads = std::strtol(part.c_str(), nullptr, 10);
          if (threads < 1 || threads > 1024) return invalid_argument("--threads: '" + part + "' is no count");
          options.threads.push_back(static_cast<int>(threads));
        }
      }
    } else {
      return invalid_argument("'" + name + "' is no option");
    }
  }
  return options;
}

}  // namespace longhaul::bench
