// Kind `layer_budgets`: the sensitivity profiles of profiles.json. Allocations are TypeScript's.
#include "engine/layer_profile.h"
#include "kinds.h"

namespace longhaul::golden {
namespace {

constexpr size_t kMaxBytes = size_t{1} << 24;
// The prompt of every profile: a tensor of the model's own case.
constexpr std::string_view kPrompt = "golden_long input_ids";

Result<ProfileOptions> parse_options(const Case& budgets, const Json& entry) {
  const Json* const profile = entry.find("profile");
  if (profile == nullptr || !profile->is_object()) return corrupt_file("an entry has no object `profile`");
  LONGHAUL_ASSIGN(const int64_t sinks, budgets.integer("sinks", profile));
  LONGHAUL_ASSIGN(const int64_t window, budgets.integer("tail", profile));
  LONGHAUL_ASSIGN(const int64_t block, budgets.integer("block", profile));
  return ProfileOptions{.sinks = static_cast<int32_t>(sinks),
                        .window = static_cast<int32_t>(window),
                        .block = static_cast<int32_t>(block)};
}

Result<Array> run_profile(const LoadedModel& loaded, std::vector<int32_t> tokens,
                          const ProfileOptions& options) {
  LONGHAUL_ASSIGN(const std::unique_ptr<LayerProfile> profile,
                  LayerProfile::create(*loaded.model, *loaded.pool, std::move(tokens), options));
  while (profile->done() < profile->total()) LONGHAUL_TRY(profile->step());
  LONGHAUL_ASSIGN(const std::vector<double> similarity, profile->similarity());
  return Array::of({static_cast<int64_t>(similarity.size())}, similarity);
}

Status run_entry(Context& context, const Case& budgets, CaseReport& report, const Json& entry) {
  LONGHAUL_ASSIGN(const std::string prompt, budgets.text("prompt", &entry));
  if (prompt != kPrompt) return unsupported("prompt " + quote_for_message(prompt));
  LONGHAUL_ASSIGN(const std::string model, budgets.text("model", &entry));
  LONGHAUL_ASSIGN(const ProfileOptions options, parse_options(budgets, entry));
  const Json* const stored = entry.find("sigma");
  if (stored == nullptr || !stored->is_array()) return corrupt_file("an entry has no array `sigma`");
  Array reference = Array::of({0}, {});
  for (const Json& sigma : stored->items()) {
    reference.append(Array::of({1}, {sigma.as_double().value_or(-2)}));
  }

  const std::string directory = budgets.root + "/" + model;
  LONGHAUL_ASSIGN(LoadedModel* const loaded, context.models.get(directory));
  LONGHAUL_ASSIGN(const GoldenFile file, GoldenFile::open(directory + "/golden_long.safetensors"));
  LONGHAUL_ASSIGN(std::vector<int32_t> tokens, file.read_ids("input_ids", loaded->model->config().vocab_size));
  LONGHAUL_ASSIGN(const Array got, run_profile(*loaded, std::move(tokens), options));
  LONGHAUL_ASSIGN(const std::optional<Limit> limit, report.limits().find("sigma"));
  if (!limit) return corrupt_file("limits: there is no \"sigma\"");
  report.add("", "sigma", compare(*limit, got, reference, model + ".sigma"));
  return Status();
}

}  // namespace

Status run_layer_budgets(Context& context, const Case& budgets) {
  LONGHAUL_ASSIGN(const Limits limits, Limits::of(budgets.json, false));
  LONGHAUL_ASSIGN(const Json profiles, read_json_file(budgets.file("profiles.json"), kMaxBytes));
  if (profiles.items().empty()) return corrupt_file("profiles.json has no entries");
  CaseReport report(context.report, budgets.name, budgets.kind, limits);
  for (const Json& entry : profiles.items()) LONGHAUL_TRY(run_entry(context, budgets, report, entry));
  return Status();
}

}  // namespace longhaul::golden
