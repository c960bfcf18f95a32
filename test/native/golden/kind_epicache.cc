// Kind `epicache`: block-wise prefill under a budget, watched block by block and layer by layer.
#include <algorithm>

#include "kinds.h"

namespace longhaul::golden {
namespace {

Result<MemoryPolicy> parse_policy(const Case& epicache) {
  LONGHAUL_ASSIGN(const Json* const spec, epicache.object("spec"));
  MemoryPolicy policy;
  for (const Json::Member& member : spec->members()) {
    if (member.name == "method") {
      LONGHAUL_ASSIGN(const std::string method, epicache.text("method", spec));
      if (method == "epicache") {
        policy.kind = PolicyKind::kPatchedPrompt;
      } else if (method == "snapkv_max") {
        policy.kind = PolicyKind::kSnapKvRefed;
      } else if (method == "snapkv_mean") {
        policy.kind = PolicyKind::kSnapKv;
      } else if (method == "keydiff") {
        policy.kind = PolicyKind::kKeyDiff;
      } else if (method == "streaming") {
        policy.kind = PolicyKind::kStreaming;
      } else {
        return unsupported("spec: method " + quote_for_message(method));
      }
    } else if (member.name == "level") {
      LONGHAUL_ASSIGN(const std::string level, epicache.text("level", spec));
      if (level != "pair" && level != "head") return unsupported("spec: level " + quote_for_message(level));
      policy.level = level == "pair" ? SelectLevel::kPair : SelectLevel::kHead;
    } else if (member.name == "budgets") {
      for (const Json& budget : member.value.items()) {
        const std::optional<int64_t> rows = budget.as_int64();
        if (!rows || *rows < 0 || *rows > INT32_MAX) return corrupt_file("spec: budgets must be counts");
        policy.budgets.push_back(static_cast<int32_t>(*rows));
      }
    } else if (member.name == "patched_start") {
      LONGHAUL_ASSIGN(const std::string start, epicache.text("patched_start", spec));
      if (start != "last") return unsupported("spec: patched_start " + quote_for_message(start));
      policy.prompt_at_last_position = true;
    } else {
      int32_t* const option = member.name == "block"    ? &policy.block
                              : member.name == "window" ? &policy.window
                              : member.name == "kernel" ? &policy.pool_kernel
                              : member.name == "sinks"  ? &policy.sinks
                                                        : nullptr;
      if (option == nullptr) return unsupported("spec: " + quote_for_message(member.name));
      LONGHAUL_ASSIGN(const int64_t value, epicache.integer(member.name, spec));
      *option = static_cast<int32_t>(value);
    }
  }
  if (policy.kind == PolicyKind::kFull) return corrupt_file("spec: there is no method");
  return policy;
}

// Compares what each layer's eviction saw and left behind with the tensors of one block.
class BlockWatch : public PassObserver {
 public:
  BlockWatch(CaseReport& report, const GoldenFile& file, Sequence& sequence, Transformer& model)
      : report_(report), file_(file), sequence_(sequence), model_(model) {}

  // `observers` rows follow the block's own and are dropped again.
  void begin_block(int64_t block, int32_t observers) {
    block_ = block;
    observers_ = observers;
  }

  Status on_hidden(int32_t, const Tensor&) override { return Status(); }

  Status on_scores(int32_t layer, const Tensor& scores, int32_t unscored_last) override {
    const int32_t kv_heads = static_cast<int32_t>(model_.config().kv_heads);
    LONGHAUL_ASSIGN(const std::vector<int32_t> all, sequence_.cache().lengths());
    std::vector<int32_t> before(all.begin() + layer * kv_heads, all.begin() + (layer + 1) * kv_heads);
    std::vector<int32_t> scored = before;
    for (int32_t& length : before) length -= observers_;
    for (int32_t& length : scored) length -= unscored_last;
    LONGHAUL_TRY(compare(layer, "len_before", Array::of(before)));
    if (!scores) return Status();
    LONGHAUL_TRY(compare(layer, "score_len", Array::of(scored)));

    LONGHAUL_ASSIGN(const Array padded, download(model_.backend(), model_.stream(), scores));
    Array dense = Array::of({0}, {});
    for (int32_t head = 0; head < kv_heads; ++head) {
      const int64_t rows = scored[static_cast<size_t>(head)];
      LONGHAUL_ASSERT(rows >= 0 && rows <= padded.shape[1]);
      dense.append(Array::of({padded.shape[1]}, padded.rows(head, 1).values).rows(0, rows));
    }
    return compare(layer, "scores", dense);
  }

  Status on_evicted(int32_t layer) override {
    LONGHAUL_TRY(model_.stream().synchronize());
    LONGHAUL_ASSIGN(const LayerRows rows, sequence_.cache().read_layer(layer));
    LONGHAUL_TRY(compare(layer, "len_kept", Array::of(rows.lengths)));
    return compare(layer, "pos_kept", Array::of(rows.positions));
  }

 private:
  Status compare(int32_t layer, const char* quantity, const Array& got) {
    std::string name("b");
    name.append(std::to_string(block_)).append(".l").append(std::to_string(layer)).append(".").append(quantity);
    return file_.has(name) ? report_.compare(file_, "", name, got) : Status();
  }

  CaseReport& report_;
  const GoldenFile& file_;
  Sequence& sequence_;
  Transformer& model_;
  int64_t block_ = 0;
  int32_t observers_ = 0;
};

Status compare_final(CaseReport& report, const GoldenFile& file, Sequence& sequence,
                     const ModelConfig& config) {
  for (int32_t layer = 0; layer < config.layers; ++layer) {
    LONGHAUL_ASSIGN(const LayerRows rows, sequence.cache().read_layer(layer));
    for (const auto& [letter, values] : {std::pair{"k_", &rows.k}, std::pair{"v_", &rows.v}}) {
      const std::string name = "final." + std::string(letter) + std::to_string(layer);
      if (!file.has(name)) continue;
      const Array got = Array::of({static_cast<int64_t>(rows.positions.size()), config.head_dim},
                                  std::vector<double>(values->begin(), values->end()));
      LONGHAUL_TRY(report.compare(file, "", name, got));
    }
  }
  return Status();
}

}  // namespace

Status run_epicache(Context& context, const Case& epicache) {
  LONGHAUL_ASSIGN(const std::string directory, epicache.model_directory());
  LONGHAUL_ASSIGN(LoadedModel* const loaded, context.models.get(directory));
  const ModelConfig& config = loaded->model->config();
  LONGHAUL_ASSIGN(const Limits limits, Limits::of(epicache.json, loaded->computes_in_bf16()));
  LONGHAUL_ASSIGN(const GoldenFile file, GoldenFile::open(epicache.file("data.safetensors")));
  LONGHAUL_ASSIGN(const std::vector<int32_t> history, file.read_ids("input_ids", config.vocab_size));
  LONGHAUL_ASSIGN(const std::vector<int32_t> question, file.read_ids("question_ids", config.vocab_size));
  LONGHAUL_ASSIGN(const std::vector<int32_t> answer, file.read_ids("greedy_ids", config.vocab_size));
  if (question.empty()) return corrupt_file("question_ids is empty");
  LONGHAUL_ASSIGN(MemoryPolicy policy, parse_policy(epicache));
  LONGHAUL_ASSIGN(policy.prompt, file.read_ids("patched_ids", config.vocab_size));
  policy.tail = static_cast<int32_t>(question.size() + answer.size());

  LONGHAUL_ASSIGN(const std::unique_ptr<Sequence> sequence,
                  Sequence::create(*loaded->model, *loaded->pool, policy));
  CaseReport report(context.report, epicache.name, epicache.kind, limits);
  BlockWatch watch(report, file, *sequence, *loaded->model);
  LONGHAUL_TRY(sequence->admit(static_cast<int64_t>(history.size() + question.size() + answer.size())));
  for (size_t begin = 0; begin < history.size(); begin += static_cast<size_t>(policy.block)) {
    const size_t count = std::min(static_cast<size_t>(policy.block), history.size() - begin);
    int32_t observers = 0;
    if (policy.kind == PolicyKind::kPatchedPrompt) observers = static_cast<int32_t>(policy.prompt.size());
    if (policy.kind == PolicyKind::kSnapKvRefed)
      observers = std::min(policy.window, static_cast<int32_t>(count));
    watch.begin_block(static_cast<int64_t>(begin) / policy.block, observers);
    LONGHAUL_TRY(sequence->prefill(std::span(history).subspan(begin, count), &watch));
  }
  LONGHAUL_TRY(compare_final(report, file, *sequence, config));

  LONGHAUL_ASSIGN(const Array logits, extend_with_logits(*loaded, *sequence, question));
  LONGHAUL_TRY(report.compare(file, "", "question_logits", logits));
  LONGHAUL_ASSIGN(const GreedyRun run, run_greedy(*loaded, *sequence, static_cast<int64_t>(answer.size())));
  LONGHAUL_TRY(report.compare(file, "", "greedy_ids", Array::of(run.ids)));
  LONGHAUL_TRY(report.require_all(file, ""));
  return Status();
}

}  // namespace longhaul::golden
