// golden [--device NAME] [--kind a,b] [--json] PATH...
// Runs the golden cases below each PATH on one device. Exit code 1 when something failed, 2 when a case or kind
// was asked for that this program does not understand, or the command line itself is not understood.
#include <algorithm>
#include <cstdio>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "engine/devices.h"
#include "kinds.h"

namespace longhaul::golden {
namespace {

constexpr int kFailed = 1;
constexpr int kNotUnderstood = 2;

struct Kind {
  const char* name;
  RunCase run;
};
constexpr Kind kKinds[] = {{"adapter", run_adapter},
                           {"attention", run_attention},
                           {"bad_adapter", run_bad_adapter},
                           {"dynmole_aux", run_dynmole_aux},
                           {"dynmole_layer", run_dynmole_layer},
                           {"dynmole_router", run_dynmole_router},
                           {"epicache", run_epicache},
                           {"epicache_multi_turn", run_epicache_multi_turn},
                           {"layer_budgets", run_layer_budgets},
                           {"mixed_adapter_batch", run_mixed_adapter_batch},
                           {"model", run_model},
                           {"sampling", run_sampling}};

struct Options {
  std::string device = "cpu";
  std::set<std::string> kinds;  // empty: all
  bool json = false;
  bool help = false;
  std::vector<std::string> paths;
};

Result<Options> parse_options(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--json") {
      options.json = true;
    } else if (argument == "--help") {
      options.help = true;
    } else if (argument == "--device" || argument == "--kind") {
      if (++i == argc) return invalid_argument(argument + " needs a value");
      std::string value = argv[i];
      if (argument == "--device") {
        options.device = value;
        continue;
      }
      for (size_t comma; (comma = value.find(',')) != std::string::npos; value = value.substr(comma + 1)) {
        options.kinds.insert(value.substr(0, comma));
      }
      options.kinds.insert(value);
    } else if (argument.starts_with("-")) {
      return invalid_argument("unknown option " + argument);
    } else {
      options.paths.push_back(argument);
    }
  }
  if (options.paths.empty() && !options.help) return invalid_argument("which PATH?");
  return options;
}

std::string usage() {
  std::string kinds;
  for (const Kind& kind : kKinds) kinds += std::string(" ") + kind.name;
  return "usage: golden [--device cpu|reference|cuda|cuda:N] [--kind a,b] [--json] PATH...\n"
         "Runs the golden cases (case.json) in and below each PATH. Kinds:" +
         kinds +
         "\nExit code: 0 all passed, 1 something failed, 2 asked for a case or kind that is not understood.";
}

const Kind* find_kind(std::string_view name) {
  const auto at =
      std::find_if(std::begin(kKinds), std::end(kKinds), [&](const Kind& kind) { return name == kind.name; });
  return at == std::end(kKinds) ? nullptr : at;
}

// True unless the case was asked for and is not understood.
bool run_case(Context& context, const Options& options, const CaseFolder& folder) {
  Result<Case> read = read_case(folder);
  if (!read.ok()) {
    context.report.quantity(folder.name, "", "case.json", failure(read.status().message()));
    return true;
  }
  const Case& one = read.value();
  if (!options.kinds.empty() && !options.kinds.contains(one.kind)) return true;
  const Kind* const kind = find_kind(one.kind);
  if (kind == nullptr) {
    context.report.skipped(one.name, one.kind, "", "kind " + one.kind + " is not understood by this build");
    return options.kinds.empty() && !folder.named;
  }
  if (Status status = kind->run(context, one); !status.ok()) {
    context.report.quantity(one.name, one.kind, "run", failure(status.message()));
  }
  return true;
}

int main(int argc, char** argv) {
  const Result<Options> parsed = parse_options(argc, argv);
  if (!parsed.ok()) {
    std::fprintf(stderr, "golden: %s\n%s\n", parsed.status().message().c_str(), usage().c_str());
    return kNotUnderstood;
  }
  const Options& options = parsed.value();
  if (options.help) {
    std::printf("%s\n", usage().c_str());
    return 0;
  }
  Result<std::unique_ptr<Backend>> backend = open_device(options.device, 0);
  if (!backend.ok()) {
    std::fprintf(stderr, "golden: %s\n", backend.status().message().c_str());
    return kNotUnderstood;
  }
  bool understood = true;
  for (const std::string& kind : options.kinds) {
    if (find_kind(kind) != nullptr) continue;
    std::fprintf(stderr, "golden: kind %s is not understood by this build\n", quote_for_message(kind).c_str());
    understood = false;
  }

  Report report(options.json);
  Models models(*backend.value());
  Context context{.backend = *backend.value(), .models = models, .report = report};
  for (const std::string& path : options.paths) {
    const Result<std::vector<CaseFolder>> cases = find_cases(path);
    if (!cases.ok()) {
      std::fprintf(stderr, "golden: %s\n", cases.status().message().c_str());
      understood = false;
      continue;
    }
    for (const CaseFolder& folder : cases.value()) {
      understood = run_case(context, options, folder) && understood;
    }
  }
  report.summary();
  if (report.failed() > 0) return kFailed;
  return understood ? 0 : kNotUnderstood;
}

}  // namespace
}  // namespace longhaul::golden

int main(int argc, char** argv) {
  return longhaul::golden::main(argc, argv);
}
