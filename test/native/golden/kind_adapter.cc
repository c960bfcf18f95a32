// Kinds `adapter` and `mixed_adapter_batch`: models with adapters read from files, alone and several in one
// batch.
#include <algorithm>
#include <numeric>

#include "kinds.h"
#include "mole/adapter_file.h"

namespace longhaul::golden {
namespace {

constexpr int32_t kBlock = 72;  // as kind `model`

using SharedAdapter = std::shared_ptr<const AdapterWeights>;

Result<SharedAdapter> bring(LoadedModel& loaded, const std::string& directory) {
  LONGHAUL_ASSIGN(const Adapter adapter, load_adapter(directory, loaded.model->adapted()));
  return loaded.model->bring(adapter);
}

Result<std::unique_ptr<Sequence>> sequence_with(LoadedModel& loaded, SharedAdapter adapter) {
  MemoryPolicy policy;
  policy.kind = PolicyKind::kFull;
  policy.block = kBlock;
  LONGHAUL_ASSIGN(std::unique_ptr<Sequence> sequence, Sequence::create(*loaded.model, *loaded.pool, policy));
  LONGHAUL_TRY(sequence->use(std::move(adapter)));
  return sequence;
}

// Compares what routers say with the tensors router.l{layer}.{projection}.{z, mask, H} of the file.
class Routers : public PassObserver {
 public:
  Routers(Transformer& model, CaseReport& report, const GoldenFile& file)
      : model_(model), report_(report), file_(file) {}

  Status on_hidden(int32_t, const Tensor&) override { return Status(); }
  Status on_scores(int32_t, const Tensor&, int32_t) override { return Status(); }
  Status on_evicted(int32_t) override { return Status(); }
  Status on_adapted(int32_t layer, ProjectionGroup group, const ExpertRouting& routing) override {
    for (int32_t p = 0; p < parts_of(group); ++p) {
      const auto projection = static_cast<Projection>(static_cast<int32_t>(first_of(group)) + p);
      LONGHAUL_TRY(compare(layer, name_of(projection), routing, p));
    }
    return Status();
  }
  Status on_mixed(int32_t layer, const ExpertRouting& routing) override {
    return compare(layer, "ffn", routing, 0);
  }

 private:
  Status compare(int32_t layer, const std::string& where, const ExpertRouting& routing, int32_t part) {
    const std::string prefix = "router.l" + std::to_string(layer) + "." + where + ".";
    if (!file_.has(prefix + "z")) return Status();
    LONGHAUL_ASSIGN(const Array stored, file_.read(prefix + "z"));
    const int64_t experts = stored.shape[1];
    LONGHAUL_ASSIGN(const Array logits, columns(routing.logits, part, experts));
    LONGHAUL_ASSIGN(Array mask, columns(routing.weights, part, experts));
    for (double& weight : mask.values) weight = weight != 0;
    LONGHAUL_TRY(report_.compare(file_, "", prefix + "z", logits));
    LONGHAUL_TRY(report_.compare(file_, "", prefix + "mask", mask));
    if (!file_.has(prefix + "H")) return Status();
    LONGHAUL_ASSIGN(Array entropy, columns(routing.entropy, part, 1));
    entropy.shape = {entropy.shape[0]};
    return report_.compare(file_, "", prefix + "H", entropy);
  }

  // Columns [0, count) of a part of a strided tensor: [rows, count].
  Result<Array> columns(const Tensor& t, int32_t part, int64_t count) {
    const int64_t rows = t.shape[0], elements = rows * t.stride[0];
    LONGHAUL_ASSIGN(const Array all,
                    download(model_.backend(), model_.stream(), Tensor::dense(t.data, t.dtype, {elements})));
    Array out = Array::of({rows, count}, {});
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t begin = t.rank == 2 ? i * t.stride[0] + part : i * t.stride[0] + part * t.stride[1];
      out.values.insert(out.values.end(), all.values.begin() + begin, all.values.begin() + begin + count);
    }
    return out;
  }

  Transformer& model_;
  CaseReport& report_;
  const GoldenFile& file_;
};

int32_t best_of(const Array& logits, int64_t row) {
  const Array one = logits.rows(row, 1);
  return static_cast<int32_t>(std::max_element(one.values.begin(), one.values.end()) - one.values.begin());
}

struct Member {
  std::unique_ptr<Sequence> sequence;
  std::vector<int32_t> tokens;  // of the prompt
  std::vector<int32_t> ids;     // drawn
  Array logits;                 // of every token of the prompt
  int32_t next = 0;
};

// One pass in which each of `members` takes its next token.
Result<Array> step(LoadedModel& loaded, std::span<Member* const> members) {
  std::vector<Sequence*> sequences;
  std::vector<int32_t> tokens;
  for (Member* member : members) {
    LONGHAUL_TRY(member->sequence->admit(1));
    sequences.push_back(member->sequence.get());
    tokens.push_back(member->next);
  }
  LONGHAUL_TRY(Sequence::extend_together(sequences, tokens));
  LONGHAUL_ASSIGN(const Tensor logits, loaded.model->logits(0, static_cast<int64_t>(members.size())));
  LONGHAUL_TRY(Sequence::settle_together(sequences));
  return download(loaded.model->backend(), loaded.model->stream(), logits);
}

}  // namespace

Status run_adapter(Context& context, const Case& one) {
  LONGHAUL_ASSIGN(const std::string directory, one.model_directory());
  LONGHAUL_ASSIGN(LoadedModel* const loaded, context.models.get(directory));
  LONGHAUL_ASSIGN(const Limits limits, Limits::of(one.json, loaded->computes_in_bf16()));
  LONGHAUL_ASSIGN(const GoldenFile file, GoldenFile::open(one.file("golden.safetensors")));
  LONGHAUL_ASSIGN(const std::vector<int32_t> ids,
                  file.read_ids("input_ids", loaded->model->config().vocab_size));
  LONGHAUL_ASSIGN(SharedAdapter adapter, bring(*loaded, one.directory));
  LONGHAUL_ASSIGN(const std::unique_ptr<Sequence> sequence, sequence_with(*loaded, std::move(adapter)));

  CaseReport report(context.report, one.name, one.kind, limits);
  Routers routers(*loaded->model, report, file);
  Array logits = Array::of({0, loaded->model->config().vocab_size}, {});
  LONGHAUL_TRY(extend(*sequence, ids, &routers, [&](int64_t, int64_t count) -> Status {
    std::vector<int64_t> rows(static_cast<size_t>(count));
    std::iota(rows.begin(), rows.end(), int64_t{0});
    LONGHAUL_ASSIGN(const Array part, read_logits(*loaded->model, rows));
    logits.append(part);
    return Status();
  }));
  LONGHAUL_TRY(report.compare(file, "", "logits", logits));
  LONGHAUL_ASSIGN(const std::vector<int32_t> greedy,
                  file.read_ids("greedy_ids", loaded->model->config().vocab_size));
  LONGHAUL_ASSIGN(const GreedyRun run, run_greedy(*loaded, *sequence, static_cast<int64_t>(greedy.size())));
  LONGHAUL_TRY(report.compare(file, "", "greedy_ids", Array::of(run.ids)));
  return report.require_all(file, "");
}

// Token by token, all sequences in each pass: each row has another adapter, or none.
Status run_mixed_adapter_batch(Context& context, const Case& one) {
  LONGHAUL_ASSIGN(const std::string directory, one.model_directory());
  LONGHAUL_ASSIGN(LoadedModel* const loaded, context.models.get(directory));
  LONGHAUL_ASSIGN(const Limits limits, Limits::of(one.json, loaded->computes_in_bf16()));
  LONGHAUL_ASSIGN(const GoldenFile file, GoldenFile::open(one.file("data.safetensors")));
  const Json* const entries = one.json.find("sequences");
  if (entries == nullptr || !entries->is_array()) return corrupt_file("case.json has no array `sequences`");
  const int64_t vocab = loaded->model->config().vocab_size;

  std::vector<Member> members;
  std::vector<Sequence*> sequences;
  for (size_t i = 0; i < entries->items().size(); ++i) {
    const Json* const path = entries->items()[i].find("adapter");
    SharedAdapter adapter;
    if (path != nullptr && path->as_string() != nullptr) {
      LONGHAUL_ASSIGN(adapter, bring(*loaded, one.root + "/" + *path->as_string()));
    }
    Member& member = members.emplace_back();
    LONGHAUL_ASSIGN(member.sequence, sequence_with(*loaded, std::move(adapter)));
    LONGHAUL_ASSIGN(member.tokens, file.read_ids("seq" + std::to_string(i) + ".input_ids", vocab));
    member.logits = Array::of({0, vocab}, {});
    sequences.push_back(member.sequence.get());
  }
  LONGHAUL_TRY(Sequence::prepare_together(sequences));

  size_t longest = 0;
  for (const Member& member : members) longest = std::max(longest, member.tokens.size());
  for (size_t at = 0; at < longest; ++at) {
    std::vector<Member*> taking;
    for (Member& member : members) {
      if (at >= member.tokens.size()) continue;
      member.next = member.tokens[at];
      taking.push_back(&member);
    }
    LONGHAUL_ASSIGN(const Array logits, step(*loaded, taking));
    for (size_t row = 0; row < taking.size(); ++row) {
      taking[row]->logits.append(logits.rows(static_cast<int64_t>(row), 1));
      taking[row]->next = best_of(logits, static_cast<int64_t>(row));
    }
  }

  CaseReport report(context.report, one.name, one.kind, limits);
  std::vector<Member*> all;
  for (Member& member : members) all.push_back(&member);
  LONGHAUL_ASSIGN(const std::vector<int32_t> first, file.read_ids("seq0.greedy_ids", vocab));
  for (size_t at = 0; at < first.size(); ++at) {
    for (Member& member : members) member.ids.push_back(member.next);
    LONGHAUL_ASSIGN(const Array logits, step(*loaded, all));
    for (size_t i = 0; i < members.size(); ++i) members[i].next = best_of(logits, static_cast<int64_t>(i));
  }
  for (size_t i = 0; i < members.size(); ++i) {
    const std::string name = "seq" + std::to_string(i) + ".";
    const int64_t rows = members[i].logits.shape[0], kept = std::min<int64_t>(rows, 8);
    LONGHAUL_TRY(report.compare(file, "", name + "logits", members[i].logits.rows(rows - kept, kept)));
    LONGHAUL_TRY(report.compare(file, "", name + "greedy_ids", Array::of(members[i].ids)));
  }
  return report.require_all(file, "");
}

}  // namespace longhaul::golden
