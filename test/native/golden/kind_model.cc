// Kind `model`: a checkpoint against the logits, hidden states, keys, values and greedy ids stored with it.
#include <algorithm>
#include <map>
#include <numeric>

#include "kinds.h"

namespace longhaul::golden {
namespace {

// Shorter than the long prompts, so that those take several passes, and not a multiple of a page.
constexpr int32_t kBlock = 72;

MemoryPolicy full_cache() {
  MemoryPolicy policy;
  policy.kind = PolicyKind::kFull;
  policy.block = kBlock;
  return policy;
}

// Gathers rows of the residual stream behind every layer but the last.
class HiddenRows : public PassObserver {
 public:
  explicit HiddenRows(Transformer& model)
      : model_(model), layers_(static_cast<size_t>(model.config().layers)) {}

  Status on_hidden(int32_t index, const Tensor& hidden) override {
    LONGHAUL_ASSERT(index >= 0 && index < static_cast<int32_t>(layers_.size()));
    LONGHAUL_ASSIGN(const Array rows, download(model_.backend(), model_.stream(), hidden));
    layers_[static_cast<size_t>(index)].append(rows);
    return Status();
  }
  Status on_scores(int32_t, const Tensor&, int32_t) override { return Status(); }
  Status on_evicted(int32_t) override { return Status(); }

  // The last layer's states come out of the final norm.
  Status on_final() {
    LONGHAUL_ASSIGN(const Array rows, download(model_.backend(), model_.stream(), model_.hidden_rows()));
    final_.append(rows);
    return Status();
  }

  const Array& at(size_t index) const { return index < layers_.size() ? layers_[index] : final_; }
  size_t count() const { return layers_.size() + 1; }

 private:
  Transformer& model_;
  std::vector<Array> layers_;
  Array final_;
};

Array pick(const Array& array, std::span<const int32_t> rows) {
  Array picked = array.rows(0, 0);
  for (int32_t row : rows) picked.append(array.rows(row, 1));
  return picked;
}

// [kv_heads, rows, head_dim] of head-after-head rows of a full cache.
Result<Array> by_head(const LayerRows& layer, const std::vector<float>& values, int64_t head_dim) {
  const int64_t rows = layer.lengths.front();
  for (int32_t length : layer.lengths) LONGHAUL_ASSERT(length == rows);
  return Array::of({static_cast<int64_t>(layer.lengths.size()), rows, head_dim},
                   std::vector<double>(values.begin(), values.end()));
}

// Rows [kv_heads, rows.size(), head_dim] where the file stores only the selected ones.
Array pick_by_head(const Array& array, std::span<const int32_t> rows) {
  Array picked = Array::of({array.shape[0], static_cast<int64_t>(rows.size()), array.shape[2]}, {});
  for (int64_t head = 0; head < array.shape[0]; ++head) {
    const Array one = Array::of({array.shape[1], array.shape[2]}, array.rows(head, 1).values);
    const Array part = pick(one, rows);
    picked.values.insert(picked.values.end(), part.values.begin(), part.values.end());
  }
  return picked;
}

Status compare_cache(CaseReport& report, const GoldenFile& file, const std::string& group, Sequence& sequence,
                     const ModelConfig& config, std::span<const int32_t> rows) {
  for (int32_t layer = 0; layer < config.layers; ++layer) {
    LONGHAUL_ASSIGN(const LayerRows cached, sequence.cache().read_layer(layer));
    for (const auto& [letter, values] : {std::pair{"k_", &cached.k}, std::pair{"v_", &cached.v}}) {
      const std::string name = letter + std::to_string(layer);
      if (!file.has(name)) continue;
      LONGHAUL_ASSIGN(const Array reference, file.read(name));
      LONGHAUL_ASSIGN(Array got, by_head(cached, *values, config.head_dim));
      const bool selected = reference.shape.size() == 3 && reference.shape[1] != got.shape[1];
      LONGHAUL_TRY(report.compare(file, group, name, selected ? pick_by_head(got, rows) : got));
    }
  }
  return Status();
}

Status compare_greedy_run(CaseReport& report, const GoldenFile& file, const std::string& group,
                          LoadedModel& loaded, Sequence& sequence) {
  if (!file.has("greedy_ids")) return Status();
  LONGHAUL_ASSIGN(const std::vector<int32_t> ids,
                  file.read_ids("greedy_ids", loaded.model->config().vocab_size));
  LONGHAUL_ASSIGN(const GreedyRun run, run_greedy(loaded, sequence, static_cast<int64_t>(ids.size())));
  Array logits;
  if (file.has("greedy_logits")) {
    LONGHAUL_ASSIGN(logits, file.read("greedy_logits"));
    // Behind the first differing id the two runs read different texts.
    const auto differing = std::mismatch(ids.begin(), ids.end(), run.ids.begin()).first - ids.begin();
    const int64_t steps = std::min<int64_t>(differing + 1, static_cast<int64_t>(ids.size()));
    LONGHAUL_ASSIGN(const std::optional<Limit> limit, report.limits().find("greedy_logits"));
    if (limit && logits.shape.size() == 2 && logits.shape[0] >= steps) {
      report.add(group, "greedy_logits",
                 compare(*limit, run.logits.rows(0, steps), logits.rows(0, steps), "greedy_logits"));
    }
  }
  LONGHAUL_ASSIGN(const std::optional<Limit> limit, report.limits().find("greedy_ids"));
  if (limit) report.add(group, "greedy_ids", compare_greedy(*limit, run.ids, ids, logits, "greedy_ids"));
  return Status();
}

// One prompt with everything the file stores of it.
Status run_prompt(CaseReport& report, const GoldenFile& file, const std::string& group, LoadedModel& loaded) {
  const ModelConfig& config = loaded.model->config();
  LONGHAUL_ASSIGN(const std::vector<int32_t> ids, file.read_ids("input_ids", config.vocab_size));
  if (ids.empty()) return corrupt_file("input_ids is empty");
  std::vector<int32_t> rows(ids.size());
  std::iota(rows.begin(), rows.end(), 0);
  if (file.has("rows")) {
    LONGHAUL_ASSIGN(rows, file.read_ids("rows", static_cast<int64_t>(ids.size())));
  }

  LONGHAUL_ASSIGN(const std::unique_ptr<Sequence> sequence,
                  Sequence::create(*loaded.model, *loaded.pool, full_cache()));
  HiddenRows hidden(*loaded.model);
  Array logits = Array::of({0, config.vocab_size}, {});
  LONGHAUL_TRY(extend(*sequence, ids, &hidden, [&](int64_t begin, int64_t count) -> Status {
    LONGHAUL_TRY(hidden.on_final());
    std::vector<int64_t> wanted;
    for (int32_t row : rows) {
      if (row >= begin && row < begin + count) wanted.push_back(row - begin);
    }
    LONGHAUL_ASSIGN(const Array part, read_logits(*loaded.model, wanted));
    logits.append(part);
    return Status();
  }));

  if (file.has("logits")) LONGHAUL_TRY(report.compare(file, group, "logits", logits));
  for (size_t i = 0; i < hidden.count(); ++i) {
    const std::string name = "hidden_" + std::to_string(i);
    if (file.has(name)) LONGHAUL_TRY(report.compare(file, group, name, pick(hidden.at(i), rows)));
  }
  LONGHAUL_TRY(compare_cache(report, file, group, *sequence, config, rows));
  LONGHAUL_TRY(compare_greedy_run(report, file, group, loaded, *sequence));
  return report.require_all(file, group);
}

// Several texts, each as if alone.
Status run_batch(CaseReport& report, const GoldenFile& file, const std::string& group, LoadedModel& loaded) {
  for (int j = 0; file.has("ids_" + std::to_string(j)); ++j) {
    LONGHAUL_ASSIGN(const std::vector<int32_t> ids,
                    file.read_ids("ids_" + std::to_string(j), loaded.model->config().vocab_size));
    LONGHAUL_ASSIGN(const std::unique_ptr<Sequence> sequence,
                    Sequence::create(*loaded.model, *loaded.pool, full_cache()));
    LONGHAUL_ASSIGN(const Array logits, extend_with_logits(loaded, *sequence, ids));
    LONGHAUL_TRY(report.compare(file, group, "logits_" + std::to_string(j), logits));
  }
  return report.require_all(file, group);
}

}  // namespace

Status run_model(Context& context, const Case& model_case) {
  LONGHAUL_ASSIGN(const Json* const golden, model_case.object("golden"));
  LONGHAUL_ASSIGN(LoadedModel* const loaded, context.models.get(model_case.directory));
  LONGHAUL_ASSIGN(const Limits limits, Limits::of(model_case.json, loaded->computes_in_bf16()));
  CaseReport report(context.report, model_case.name, model_case.kind, limits);
  for (const Json::Member& entry : golden->members()) {
    LONGHAUL_ASSIGN(const std::string name, model_case.text("file", &entry.value));
    LONGHAUL_ASSIGN(const GoldenFile file, GoldenFile::open(model_case.file(name)));
    const std::string group = entry.name + ".";
    LONGHAUL_TRY(file.has("input_ids") ? run_prompt(report, file, group, *loaded)
                                       : run_batch(report, file, group, *loaded));
  }
  return Status();
}

}  // namespace longhaul::golden
