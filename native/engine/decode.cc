#include "engine/decode.h"

#include <new>

namespace longhaul {
namespace {

// Those of a pass, and which task each belongs to.
struct Batch {
  std::vector<size_t> tasks;
  std::vector<Sequence*> sequences;
  std::vector<int32_t> tokens;
};

Status run_and_draw(Engine& engine, std::span<GenerateTask* const> tasks, const Batch& batch) {
  LONGHAUL_TRY(Sequence::extend_together(batch.sequences, batch.tokens));
  for (Sequence* sequence : batch.sequences) sequence->pending.reset();
  const int64_t rows = static_cast<int64_t>(batch.tasks.size());
  LONGHAUL_ASSIGN(const Tensor logits, engine.model().logits(0, rows));
  std::vector<DrawRow> draws;
  for (size_t i = 0; i < batch.tasks.size(); ++i) {
    draws.push_back(tasks[batch.tasks[i]]->draw_row(*batch.sequences[i]));
  }
  return engine.sampler().draw(logits, draws);
}

}  // namespace

Result<bool> draw_first(Engine& engine, GenerateTask& task, Sequence& sequence) {
  LONGHAUL_ASSIGN(const Tensor logits, engine.model().logits(sequence.last_row(), 1));
  const DrawRow row = task.draw_row(sequence);
  LONGHAUL_TRY(engine.sampler().draw(logits, std::span(&row, 1)));
  LONGHAUL_TRY(sequence.settle());
  return task.take(engine, sequence, engine.sampler().drawn(0));
}

std::vector<Result<bool>> decode_together(Engine& engine, std::span<GenerateTask* const> tasks) {
  std::vector<Result<bool>> outcomes(tasks.size(), Result<bool>(false));
  Batch batch;
  Status status;
  try {
    for (size_t i = 0; i < tasks.size(); ++i) {
      const Result<Sequence*> sequence = engine.find(tasks[i]->lanes().front());
      const Status settled = sequence.ok() ? sequence.value()->settled() : sequence.status();
      if (!settled.ok()) {
        outcomes[i] = settled;
        continue;
      }
      batch.tasks.push_back(i);
      batch.sequences.push_back(sequence.value());
      batch.tokens.push_back(*sequence.value()->pending);
    }
    if (batch.tasks.empty()) return outcomes;
    status = run_and_draw(engine, tasks, batch);
  } catch (const std::bad_alloc&) {
    status = out_of_memory("the process has no memory left");
  }
  // The one wait of a turn.
  if (status.ok()) status = Sequence::settle_together(batch.sequences);
  for (size_t row = 0; row < batch.tasks.size(); ++row) {
    GenerateTask& task = *tasks[batch.tasks[row]];
    outcomes[batch.tasks[row]] = status.ok()
                                     ? task.take(engine, *batch.sequences[row], engine.sampler().drawn(row))
                                     : Result<bool>(status);
  }
  return outcomes;
}

}  // namespace longhaul
