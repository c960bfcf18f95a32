#include "models.h"

#include <algorithm>

namespace longhaul::golden {
namespace {

// Rows a KV head of any case may hold; the tiny models' histories have hundreds.
constexpr int64_t kHeadRows = 4096;

}  // namespace

bool LoadedModel::computes_in_bf16() const {
  return model->backend().activation_dtype(model->weights_dtype()) == DType::kBf16;
}

Result<LoadedModel*> Models::get(const std::string& directory) {
  if (auto at = loaded_.find(directory); at != loaded_.end()) return &at->second;
  LoadedModel loaded;
  LONGHAUL_ASSIGN(loaded.model, Transformer::load(backend_, directory, [](int64_t, int64_t) { return true; }));
  const KvGeometry geometry = loaded.model->kv_geometry();
  const int64_t pages = int64_t{geometry.layers} * geometry.kv_heads * pages_for(kHeadRows);
  LONGHAUL_ASSIGN(loaded.pool, PagePool::create(backend_, geometry, pages * geometry.page_bytes()));
  LONGHAUL_ASSIGN(loaded.sampler,
                  Sampler::create(backend_, loaded.model->stream(), loaded.model->config().vocab_size));
  return &loaded_.emplace(directory, std::move(loaded)).first->second;
}

Status extend(Sequence& sequence, std::span<const int32_t> tokens, PassObserver* observer,
              const AfterPass& after_pass) {
  LONGHAUL_TRY(sequence.admit(static_cast<int64_t>(tokens.size())));
  const size_t block = static_cast<size_t>(sequence.policy().block);
  for (size_t begin = 0; begin < tokens.size(); begin += block) {
    const size_t count = std::min(block, tokens.size() - begin);
    LONGHAUL_TRY(sequence.extend(tokens.subspan(begin, count), observer));
    LONGHAUL_TRY(after_pass(static_cast<int64_t>(begin), static_cast<int64_t>(count)));
  }
  return Status();
}

Result<Array> read_logits(Transformer& model, std::span<const int64_t> rows) {
  Array all = Array::of({0, model.config().vocab_size}, {});
  for (size_t i = 0; i < rows.size();) {
    size_t end = i + 1;
    while (end < rows.size() && rows[end] == rows[end - 1] + 1 && end - i < Transformer::kLogitRows) ++end;
    LONGHAUL_ASSIGN(const Tensor logits, model.logits(rows[i], static_cast<int64_t>(end - i)));
    LONGHAUL_ASSIGN(const Array part, download(model.backend(), model.stream(), logits));
    all.append(part);
    i = end;
  }
  return all;
}

Result<GreedyRun> run_greedy(LoadedModel& loaded, Sequence& sequence, int64_t steps) {
  Transformer& model = *loaded.model;
  GreedyRun run{.ids = {}, .logits = Array::of({0, model.config().vocab_size}, {})};
  for (int64_t step = 0; step < steps; ++step) {
    LONGHAUL_ASSIGN(const Tensor logits, model.logits(sequence.last_row(), 1));
    LONGHAUL_ASSIGN(const Array row, download(model.backend(), model.stream(), logits));
    run.logits.append(row);
    const DrawRow draw{.params = {.temperature = 0}};
    LONGHAUL_TRY(loaded.sampler->draw(logits, std::span(&draw, 1)));
    LONGHAUL_TRY(sequence.settle());
    const int32_t id = loaded.sampler->drawn(0);
    run.ids.push_back(id);
    LONGHAUL_TRY(sequence.admit(1));
    LONGHAUL_TRY(sequence.extend(std::span(&id, 1)));
  }
  return run;
}

Result<Array> extend_with_logits(LoadedModel& loaded, Sequence& sequence, std::span<const int32_t> tokens) {
  Array all = Array::of({0, loaded.model->config().vocab_size}, {});
  LONGHAUL_TRY(extend(sequence, tokens, nullptr, [&](int64_t, int64_t count) -> Status {
    std::vector<int64_t> rows(static_cast<size_t>(count));
    for (int64_t row = 0; row < count; ++row) rows[static_cast<size_t>(row)] = row;
    LONGHAUL_ASSIGN(const Array part, read_logits(*loaded.model, rows));
    all.append(part);
    return Status();
  }));
  return all;
}

}  // namespace longhaul::golden
