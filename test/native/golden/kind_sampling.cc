// Kind `sampling`: the distribution drawn from, after every filter, and the arg-max on ties.
#include <cstdlib>

#include "core/arena.h"
#include "kinds.h"

namespace longhaul::golden {
namespace {

Result<SampleParams> parse_params(const Json& json) {
  SampleParams params;
  for (const Json::Member& member : json.members()) {
    const std::optional<double> value = member.value.as_double();
    if (!value) return corrupt_file("params: " + quote_for_message(member.name) + " must be a number");
    if (member.name == "temperature") {
      params.temperature = static_cast<float>(*value);
    } else if (member.name == "top_k") {
      if (!(*value >= 0 && *value <= INT32_MAX)) return corrupt_file("params: top_k must be a count");
      params.top_k = static_cast<int32_t>(*value);
    } else if (member.name == "top_p") {
      params.top_p = static_cast<float>(*value);
    } else if (member.name == "min_p") {
      params.min_p = static_cast<float>(*value);
    } else if (member.name == "repetition_penalty") {
      params.repetition_penalty = static_cast<float>(*value);
    } else {
      return unsupported("params: " + quote_for_message(member.name));
    }
  }
  return params;
}

struct Draw {
  Array probabilities;       // [rows, vocab]
  std::vector<int32_t> ids;  // [rows]
};

// Draws one token of each row, all rows with the same parameters. `previous` [rows, any]: ids seen before, or
// empty.
Result<Draw> draw(Backend& backend, const Array& logits, const Array& previous, const SampleParams& params) {
  if (logits.shape.size() != 2) return corrupt_file("logits have shape " + describe(logits.shape));
  const int64_t rows = logits.shape[0];
  const int64_t vocab = logits.shape[1];
  const int64_t mask_bytes = (vocab + 7) / 8;
  std::vector<uint8_t> seen(static_cast<size_t>(rows * mask_bytes));
  if (!previous.shape.empty()) {
    if (previous.shape.size() != 2 || previous.shape[0] != rows) {
      return corrupt_file("previous_ids have shape " + describe(previous.shape));
    }
    for (size_t i = 0; i < previous.values.size(); ++i) {
      const double id = previous.values[i];
      if (!(id >= 0 && id < static_cast<double>(vocab))) return corrupt_file("previous_ids are out of range");
      const int64_t row = static_cast<int64_t>(i) / previous.shape[1];
      const int64_t bit = static_cast<int64_t>(id);
      seen[static_cast<size_t>(row * mask_bytes + bit / 8)] |= static_cast<uint8_t>(1u << (bit % 8));
    }
  }

  SampleArgs args;
  Workspace workspace;
  Tensor params_tensor;
  const auto lay_out = [&](Arena arena) {
    args.logits = arena.take(DType::kF32, {rows, vocab});
    params_tensor = arena.take(DType::kU8, {rows * static_cast<int64_t>(sizeof(SampleParams))});
    args.seen = arena.take(DType::kU8, {rows, mask_bytes});
    args.ids = arena.take(DType::kI32, {rows});
    args.probabilities = arena.take(DType::kF32, {rows, vocab});
    const size_t bytes = backend.ops().sample_workspace(args);
    workspace = {arena.take_bytes(bytes), bytes};
    return arena.used();
  };
  LONGHAUL_ASSIGN(const Buffer buffer, backend.allocate(lay_out(Arena()), MemoryUse::kWorkspace));
  lay_out(Arena(buffer));
  args.params = params_tensor.as<const SampleParams>();

  LONGHAUL_ASSIGN(const std::unique_ptr<Stream> stream, backend.make_stream());
  const std::vector<float> values(logits.values.begin(), logits.values.end());
  const std::vector<SampleParams> all_params(static_cast<size_t>(rows), params);
  LONGHAUL_TRY(backend.upload(*stream, args.logits.data, values.data(), values.size() * sizeof(float)));
  LONGHAUL_TRY(
      backend.upload(*stream, params_tensor.data, all_params.data(), all_params.size() * sizeof(SampleParams)));
  LONGHAUL_TRY(backend.upload(*stream, args.seen.data, seen.data(), seen.size()));
  LONGHAUL_TRY(run(backend, *stream, args, workspace));
  Draw result;
  LONGHAUL_ASSIGN(result.probabilities, download(backend, *stream, args.probabilities));
  LONGHAUL_ASSIGN(const Array ids, download(backend, *stream, args.ids));
  result.ids.assign(ids.values.begin(), ids.values.end());
  return result;
}

// 1 where an entry counts as kept.
Array support_of(const Array& probabilities, double zero_below) {
  Array support = probabilities;
  for (double& value : support.values) value = value < zero_below || value == 0 ? 0 : 1;
  return support;
}

// A drawn token outside the distribution would pass every comparison of probabilities.
Comparison drawn_inside(const Draw& drawn, const std::string& name) {
  const size_t vocab = static_cast<size_t>(drawn.probabilities.shape[1]);
  for (size_t row = 0; row < drawn.ids.size(); ++row) {
    const int32_t id = drawn.ids[row];
    if (id < 0 || static_cast<size_t>(id) >= vocab ||
        !(drawn.probabilities.values[row * vocab + static_cast<size_t>(id)] > 0)) {
      return failure(name + ": row " + std::to_string(row) + " drew " + std::to_string(id) +
                     ", which has probability 0");
    }
  }
  return {};
}

Status compare_support(CaseReport& report, const Array& got, const Array& reference, const Json& counts,
                       const std::string& name) {
  LONGHAUL_ASSIGN(const std::optional<Limit> limit, report.limits().find("support"));
  if (!limit) return Status();
  const Array got_support = support_of(got, limit->zero_below);
  report.add("", "support", compare(*limit, got_support, support_of(reference, limit->zero_below), name));
  if (got_support.shape.size() != 2) return Status();
  Array kept = Array::of({0}, {});
  Array stored = Array::of({0}, {});
  for (int64_t row = 0; row < got_support.shape[0]; ++row) {
    double entries = 0;
    for (double value : got_support.rows(row, 1).values) entries += value;
    kept.append(Array::of({1}, {entries}));
  }
  for (const Json& count : counts.items()) stored.append(Array::of({1}, {count.as_double().value_or(-1)}));
  report.add("", "support", compare(*limit, kept, stored, name + " support"));
  return Status();
}

// The k of topk_tie_logits: the case says it in its formulae alone ("... with k=3 ...").
Result<int32_t> tied_top_k(const Case& sampling) {
  LONGHAUL_ASSIGN(const Json* const formulae, sampling.object("formulae"));
  LONGHAUL_ASSIGN(const std::string text, sampling.text("top_k", formulae));
  const size_t at = text.find("with k=");
  const int k = at == std::string::npos ? 0 : std::atoi(text.c_str() + at + std::string_view("with k=").size());
  if (k < 1) return corrupt_file("formulae: top_k does not say the k of topk_tie_logits");
  return k;
}

Status compare_greedy_ties(CaseReport& report, Backend& backend, const GoldenFile& file, const Json& ties) {
  const std::string* rows = ties.find("rows") != nullptr ? ties.find("rows")->as_string() : nullptr;
  const Json* expected = ties.find("expected_ids");
  if (rows == nullptr || expected == nullptr) return corrupt_file("greedy_ties: needs rows and expected_ids");
  LONGHAUL_ASSIGN(const Array logits, file.read(*rows));
  LONGHAUL_ASSIGN(const Draw drawn, draw(backend, logits, Array(), SampleParams{.temperature = 0}));
  Array reference = Array::of({0}, {});
  for (const Json& id : expected->items()) reference.append(Array::of({1}, {id.as_double().value_or(-1)}));
  report.add("", "greedy_ties", compare(Limit{.exact = true}, Array::of(drawn.ids), reference, "greedy_ties"));
  return Status();
}

}  // namespace

Status run_sampling(Context& context, const Case& sampling) {
  LONGHAUL_ASSIGN(const Limits limits, Limits::of(sampling.json, false));
  LONGHAUL_ASSIGN(const GoldenFile file, GoldenFile::open(sampling.file("data.safetensors")));
  LONGHAUL_ASSIGN(const Array logits, file.read("logits"));
  LONGHAUL_ASSIGN(const Array previous, file.read("previous_ids"));
  CaseReport report(context.report, sampling.name, sampling.kind, limits);

  const Json* const cases = sampling.json.find("cases");
  if (cases == nullptr || !cases->is_array()) return corrupt_file("case.json has no list `cases`");
  for (const Json& entry : cases->items()) {
    LONGHAUL_ASSIGN(const int64_t index, sampling.integer("index", &entry));
    const Json* const params_json = entry.find("params");
    const Json* const support = entry.find("support");
    if (params_json == nullptr || support == nullptr) return corrupt_file("cases: needs params and support");
    LONGHAUL_ASSIGN(const SampleParams params, parse_params(*params_json));
    LONGHAUL_ASSIGN(const Draw drawn, draw(context.backend, logits, previous, params));
    const std::string name = "probs_" + std::to_string(index);
    LONGHAUL_TRY(report.compare(file, "", name, drawn.probabilities));
    LONGHAUL_ASSIGN(const Array reference, file.read(name));
    LONGHAUL_TRY(compare_support(report, drawn.probabilities, reference, *support, name));
    report.add("", "drawn_inside", drawn_inside(drawn, name));
  }
  if (const Json* ties = sampling.json.find("greedy_ties"); ties != nullptr) {
    LONGHAUL_TRY(compare_greedy_ties(report, context.backend, file, *ties));
  }
  if (file.has("topk_tie_logits")) {
    LONGHAUL_ASSIGN(const int32_t k, tied_top_k(sampling));
    LONGHAUL_ASSIGN(const Array tied, file.read("topk_tie_logits"));
    LONGHAUL_ASSIGN(const Draw drawn, draw(context.backend, tied, Array(), SampleParams{.top_k = k}));
    LONGHAUL_TRY(report.compare(file, "", "topk_tie_probs", drawn.probabilities));
  }
  LONGHAUL_TRY(report.require_all(file, ""));
  return Status();
}

}  // namespace longhaul::golden
