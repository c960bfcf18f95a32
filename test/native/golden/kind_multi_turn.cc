// Kind `epicache_multi_turn`: several questions on one evicted cache, their rows kept or dropped.
#include <algorithm>

#include "kinds.h"

namespace longhaul::golden {
namespace {

struct Turns {
  std::vector<int32_t> history;
  std::vector<std::vector<int32_t>> questions;
  int64_t answer_tokens = 0;
  MemoryPolicy policy;
};

Result<Turns> read_turns(const Case& multi_turn, const GoldenFile& file, const ModelConfig& config) {
  LONGHAUL_ASSIGN(const std::string method, multi_turn.text("method"));
  LONGHAUL_ASSIGN(const std::string level, multi_turn.text("level"));
  LONGHAUL_ASSIGN(const int64_t block, multi_turn.integer("block"));
  LONGHAUL_ASSIGN(const int64_t budget, multi_turn.integer("budget"));
  LONGHAUL_ASSIGN(const int64_t turns, multi_turn.integer("n_turns"));
  if (method != "epicache") return unsupported("method " + quote_for_message(method));
  if (level != "pair" && level != "head") return unsupported("level " + quote_for_message(level));

  Turns result;
  LONGHAUL_ASSIGN(result.answer_tokens, multi_turn.integer("n_new"));
  LONGHAUL_ASSIGN(result.history, file.read_ids("input_ids", config.vocab_size));
  result.policy.kind = PolicyKind::kPatchedPrompt;
  result.policy.level = level == "pair" ? SelectLevel::kPair : SelectLevel::kHead;
  result.policy.block = static_cast<int32_t>(block);
  result.policy.budgets.assign(static_cast<size_t>(config.layers), static_cast<int32_t>(budget));
  LONGHAUL_ASSIGN(result.policy.prompt, file.read_ids("patched_ids", config.vocab_size));
  int64_t tail = 0;
  for (int64_t turn = 0; turn < turns; ++turn) {
    LONGHAUL_ASSIGN(std::vector<int32_t> question,
                    file.read_ids("question_" + std::to_string(turn), config.vocab_size));
    if (question.empty()) return corrupt_file("a question is empty");
    tail += static_cast<int64_t>(question.size()) + result.answer_tokens;
    result.questions.push_back(std::move(question));
  }
  result.policy.tail = static_cast<int32_t>(std::min<int64_t>(tail, INT32_MAX));
  return result;
}

// Rows of each layer over all its heads, next to the case's own count.
Status compare_entries(CaseReport& report, const Case& multi_turn, const std::string& turn, Sequence& sequence,
                       const ModelConfig& config) {
  LONGHAUL_ASSIGN(const Json* const counts, multi_turn.object("entries_per_layer_after_turn"));
  LONGHAUL_ASSIGN(const std::optional<Limit> limit, report.limits().find("entries_per_layer_after_turn"));
  const Json* const stored = counts->find(turn);
  if (stored == nullptr || !limit) return Status();
  Array reference = Array::of({0}, {});
  for (const Json& count : stored->items()) {
    reference.append(Array::of({1}, {count.as_double().value_or(-1)}));
  }
  LONGHAUL_ASSIGN(const std::vector<int32_t> lengths, sequence.cache().lengths());
  std::vector<int32_t> entries(static_cast<size_t>(config.layers));
  for (size_t i = 0; i < lengths.size(); ++i) entries[i / static_cast<size_t>(config.kv_heads)] += lengths[i];
  report.add("", "entries_per_layer_after_turn", compare(*limit, Array::of(entries), reference, turn));
  return Status();
}

Status run_turns(CaseReport& report, const Case& multi_turn, const GoldenFile& file, LoadedModel& loaded,
                 const Turns& turns, bool keep) {
  const MemoryPolicy& policy = turns.policy;
  LONGHAUL_ASSIGN(const std::unique_ptr<Sequence> sequence,
                  Sequence::create(*loaded.model, *loaded.pool, policy));
  LONGHAUL_TRY(sequence->admit(static_cast<int64_t>(turns.history.size()) + policy.tail));
  for (size_t begin = 0; begin < turns.history.size(); begin += static_cast<size_t>(policy.block)) {
    const size_t count = std::min(static_cast<size_t>(policy.block), turns.history.size() - begin);
    LONGHAUL_TRY(sequence->prefill(std::span(turns.history).subspan(begin, count)));
  }
  for (size_t i = 0; i < turns.questions.size(); ++i) {
    const std::string turn = (keep ? "keep.turn" : "drop.turn") + std::to_string(i);
    LONGHAUL_ASSIGN(const Array logits, extend_with_logits(loaded, *sequence, turns.questions[i]));
    LONGHAUL_TRY(report.compare(file, "", turn + ".logits", logits));
    LONGHAUL_ASSIGN(const GreedyRun run, run_greedy(loaded, *sequence, turns.answer_tokens));
    LONGHAUL_TRY(report.compare(file, "", turn + ".greedy_ids", Array::of(run.ids)));
    LONGHAUL_TRY(compare_entries(report, multi_turn, turn, *sequence, loaded.model->config()));
    if (!keep) {
      LONGHAUL_TRY(sequence->truncate(static_cast<int64_t>(turns.questions[i].size()) + turns.answer_tokens));
    }
  }
  return Status();
}

}  // namespace

Status run_epicache_multi_turn(Context& context, const Case& multi_turn) {
  LONGHAUL_ASSIGN(const std::string directory, multi_turn.model_directory());
  LONGHAUL_ASSIGN(LoadedModel* const loaded, context.models.get(directory));
  LONGHAUL_ASSIGN(const Limits limits, Limits::of(multi_turn.json, loaded->computes_in_bf16()));
  LONGHAUL_ASSIGN(const GoldenFile file, GoldenFile::open(multi_turn.file("data.safetensors")));
  LONGHAUL_ASSIGN(const Turns turns, read_turns(multi_turn, file, loaded->model->config()));
  CaseReport report(context.report, multi_turn.name, multi_turn.kind, limits);
  LONGHAUL_TRY(run_turns(report, multi_turn, file, *loaded, turns, true));
  LONGHAUL_TRY(run_turns(report, multi_turn, file, *loaded, turns, false));
  LONGHAUL_TRY(report.require_all(file, ""));
  return Status();
}

}  // namespace longhaul::golden
