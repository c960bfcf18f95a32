// Kind `bad_adapter`: files that must be refused (a pickle that asks for more than tensors), be an error that
// names the tensor, or load.
#include "kinds.h"
#include "model/config.h"
#include "mole/adapter_file.h"

namespace longhaul::golden {
namespace {

// What loading came to, in the words of case.json.
std::string outcome_of(const Result<Adapter>& adapter) {
  if (adapter.ok()) return "load";
  const std::string message = adapter.status().message();
  if (message.find("nothing was executed") != message.npos) return "refuse";
  const bool names_tensor = message.find(" tensor ") != message.npos;
  return adapter.status().code() == Code::kCorruptFile && names_tensor ? "error" : message;
}

}  // namespace

Status run_bad_adapter(Context& context, const Case& bad) {
  LONGHAUL_ASSIGN(const std::string expected, bad.text("expect"));
  LONGHAUL_ASSIGN(const std::string model, bad.model_directory());
  LONGHAUL_ASSIGN(const ModelConfig config, load_config(model));
  const std::string outcome = outcome_of(load_adapter(bad.directory, adapted_model(config)));
  context.report.quantity(
      bad.name, bad.kind, "expect",
      outcome == expected ? Comparison{} : failure("expected " + expected + ", got " + outcome));
  return Status();
}

}  // namespace longhaul::golden
