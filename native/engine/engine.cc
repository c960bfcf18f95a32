#include "engine/engine.h"

#include <algorithm>
#include <bit>
#include <new>

#include "engine/decode.h"
#include "engine/devices.h"
#include "engine/tasks.h"
#include "mole/adapter_file.h"

namespace longhaul {
namespace {

Status disposed() {
  return {Code::kDisposed, "the engine was disposed of"};
}

}  // namespace

Engine::Engine(EngineOptions options, std::function<void()> notify)
    : options_(std::move(options)),
      notify_(std::move(notify)),
      batch_ceiling_(options_.max_batch),
      thread_([this] { main(); }) {}

Engine::~Engine() {
  stopping_ = true;
  load_cancelled_ = true;
  {
    // Taken so that the thread is either waiting, and wakes, or has yet to look at stopping_.
    std::lock_guard lock(mutex_);
  }
  wake_.notify_all();
  thread_.join();
}

// ---- callers' side ------------------------------------------------------------------------------------------

uint64_t Engine::submit(std::unique_ptr<Task> task) {
  uint64_t id;
  {
    std::lock_guard lock(mutex_);
    id = task->id = next_task_++;
    task->last_turn = turns_;  // behind those that have waited for longer
    tasks_.push_back(std::move(task));
  }
  wake_.notify_all();
  return id;
}

uint64_t Engine::create_sequence(MemoryPolicy policy, uint64_t adapter) {
  return submit(std::make_unique<CallTask>(
      [policy = std::move(policy), adapter](Engine& engine, uint64_t id) -> Status {
        LONGHAUL_TRY(engine.check_tokens(policy.prompt));
        LONGHAUL_ASSIGN(std::shared_ptr<const AdapterWeights> weights, engine.find_adapter(adapter));
        LONGHAUL_ASSIGN(std::unique_ptr<Sequence> sequence,
                        Sequence::create(engine.model(), engine.pool(), policy));
        LONGHAUL_TRY(sequence->use(std::move(weights)));
        engine.tell({.task = id, .kind = EventKind::kDone, .sequence = engine.adopt(std::move(sequence))});
        return Status();
      },
      Lanes{}, true));
}

uint64_t Engine::release_sequence(uint64_t sequence) {
  return submit(std::make_unique<CallTask>(
      [sequence](Engine& engine, uint64_t id) -> Status {
        engine.drop(sequence);
        engine.tell({.task = id, .kind = EventKind::kDone});
        return Status();
      },
      Lanes{sequence}));
}

uint64_t Engine::load_adapter(std::string directory) {
  return submit(std::make_unique<CallTask>(
      [directory = std::move(directory)](Engine& engine, uint64_t id) -> Status {
        LONGHAUL_ASSIGN(const Adapter adapter, longhaul::load_adapter(directory, engine.model().adapted()));
        LONGHAUL_ASSIGN(std::shared_ptr<const AdapterWeights> weights, engine.model().bring(adapter));
        const int64_t bytes = weights->bytes();
        const uint64_t adopted = engine.adopt(std::move(weights));
        engine.tell({.task = id, .kind = EventKind::kDone, .done = bytes, .adapter = adopted});
        return Status();
      },
      Lanes{}, true));
}

uint64_t Engine::release_adapter(uint64_t adapter) {
  return submit(std::make_unique<CallTask>(
      [adapter](Engine& engine, uint64_t id) -> Status {
        engine.drop_adapter(adapter);
        engine.tell({.task = id, .kind = EventKind::kDone});
        return Status();
      },
      Lanes{}));
}

uint64_t Engine::ingest(uint64_t sequence, std::vector<int32_t> tokens, bool into_tail) {
  return submit(std::make_unique<IngestTask>(sequence, std::move(tokens), into_tail));
}

uint64_t Engine::ingest_together(std::vector<uint64_t> sequences, std::vector<int32_t> tokens) {
  return submit(std::make_unique<IngestTogetherTask>(std::move(sequences), std::move(tokens)));
}

uint64_t Engine::ingest_shared(std::vector<uint64_t> sequences, std::vector<int32_t> tokens,
                               std::vector<int32_t> budgets) {
  return submit(
      std::make_unique<IngestSharedTask>(std::move(sequences), std::move(tokens), std::move(budgets)));
}

uint64_t Engine::generate(uint64_t sequence, std::vector<int32_t> tokens, GenerateOptions options) {
  return submit(std::make_unique<GenerateTask>(sequence, std::move(tokens), std::move(options)));
}

uint64_t Engine::truncate(uint64_t sequence, int64_t tokens) {
  return submit(std::make_unique<CallTask>(
      [sequence, tokens](Engine& engine, uint64_t id) -> Status {
        LONGHAUL_ASSIGN(Sequence * target, engine.find(sequence));
        const int64_t pending = tokens > 0 && target->pending ? 1 : 0;
        LONGHAUL_TRY(target->truncate(tokens - pending));
        if (pending) target->pending.reset();
        engine.tell({.task = id, .kind = EventKind::kDone});
        return Status();
      },
      Lanes{sequence}));
}

uint64_t Engine::unite(uint64_t first, uint64_t second, int64_t shared_tokens) {
  return submit(std::make_unique<CallTask>(
      [=](Engine& engine, uint64_t id) -> Status {
        LONGHAUL_ASSIGN(Sequence * one, engine.find(first));
        LONGHAUL_ASSIGN(Sequence * other, engine.find(second));
        LONGHAUL_ASSIGN(std::unique_ptr<Sequence> sequence,
                        Sequence::unite(engine.model(), engine.pool(), *one, *other, shared_tokens));
        engine.tell({.task = id, .kind = EventKind::kDone, .sequence = engine.adopt(std::move(sequence))});
        return Status();
      },
      Lanes{first, second}, true));
}

uint64_t Engine::export_sequence(uint64_t sequence) {
  return submit(std::make_unique<CallTask>(
      [sequence](Engine& engine, uint64_t id) -> Status {
        LONGHAUL_ASSIGN(Sequence * source, engine.find(sequence));
        LONGHAUL_ASSIGN(SequenceImage image, source->image());
        auto shared = std::make_shared<const SequenceImage>(std::move(image));
        engine.tell({.task = id, .kind = EventKind::kDone, .image = std::move(shared)});
        return Status();
      },
      Lanes{sequence}, true));
}

uint64_t Engine::export_rows(uint64_t sequence, int32_t layer, int32_t head) {
  return submit(std::make_unique<CallTask>(
      [=](Engine& engine, uint64_t id) -> Status {
        LONGHAUL_ASSIGN(Sequence * source, engine.find(sequence));
        LONGHAUL_ASSIGN(std::vector<uint8_t> rows, source->read_rows(layer, head));
        engine.tell({.task = id, .kind = EventKind::kDone, .bytes = std::move(rows)});
        return Status();
      },
      Lanes{sequence}, true));
}

uint64_t Engine::import_sequence(SequenceImage image) {
  return submit(std::make_unique<CallTask>(
      [image = std::move(image)](Engine& engine, uint64_t id) -> Status {
        LONGHAUL_ASSIGN(std::unique_ptr<Sequence> sequence,
                        Sequence::restore(engine.model(), engine.pool(), image));
        engine.tell({.task = id, .kind = EventKind::kDone, .sequence = engine.adopt(std::move(sequence))});
        return Status();
      },
      Lanes{}, true));
}

uint64_t Engine::import_rows(uint64_t sequence, int32_t layer, int32_t head, std::vector<uint8_t> rows) {
  return submit(std::make_unique<CallTask>(
      [sequence, layer, head, rows = std::move(rows)](Engine& engine, uint64_t id) -> Status {
        LONGHAUL_ASSIGN(Sequence * target, engine.find(sequence));
        LONGHAUL_TRY(target->write_rows(layer, head, rows));
        engine.tell({.task = id, .kind = EventKind::kDone});
        return Status();
      },
      Lanes{sequence}, true));
}

uint64_t Engine::score(std::vector<int32_t> tokens, ScoreOptions options) {
  return submit(std::make_unique<ScoreTask>(std::move(tokens), options));
}

uint64_t Engine::embed(std::vector<int32_t> tokens, Pooling pooling) {
  return submit(std::make_unique<EmbedTask>(std::move(tokens), pooling));
}

uint64_t Engine::profile(std::vector<int32_t> tokens, const ProfileOptions& options) {
  return submit(std::make_unique<ProfileTask>(std::move(tokens), options));
}

void Engine::cancel(uint64_t task) {
  if (task == 0) load_cancelled_ = true;
  std::shared_ptr<Task> ended;  // freed without the lock
  bool first = false;
  {
    std::lock_guard lock(mutex_);
    const auto found = std::find_if(tasks_.begin(), tasks_.end(),
                                    [&](const std::shared_ptr<Task>& queued) { return queued->id == task; });
    if (found == tasks_.end()) return;
    (*found)->cancelled = true;
    // One that has begun belongs to the engine's thread.
    std::optional<Event> event = (*found)->begun ? std::nullopt : (*found)->cancelled_event();
    if (event) {
      ended = std::move(*found);
      tasks_.erase(found);
      first = push(std::move(*event));
    }
  }
  wake_.notify_all();
  if (first) notify_();
}

void Engine::confirm(uint64_t task, int64_t tokens) {
  {
    std::lock_guard lock(mutex_);
    for (const std::shared_ptr<Task>& queued : tasks_) {
      if (queued->id == task) queued->confirmed = tokens;
    }
  }
  wake_.notify_all();
}

std::vector<Event> Engine::take_events() {
  std::lock_guard lock(mutex_);
  return std::exchange(events_, {});
}

EngineMemory Engine::memory() const {
  std::lock_guard lock(mutex_);
  return memory_;
}

Result<SequenceMemory> Engine::sequence_memory(uint64_t sequence) const {
  std::lock_guard lock(mutex_);
  const auto found = sequence_memory_.find(sequence);
  if (found == sequence_memory_.end())
    return invalid_argument("there is no such conversation, or it was disposed of");
  return found->second;
}

// ---- the engine's thread ------------------------------------------------------------------------------------

void Engine::tell(Event event) {
  // Whoever hears of progress finds the numbers of that moment; single tokens are too many to publish each.
  if (event.kind != EventKind::kTokens) publish();
  bool first;
  {
    std::lock_guard lock(mutex_);
    first = push(std::move(event));
  }
  // One call for many events: a slow reader finds them all at once.
  if (first) notify_();
}

bool Engine::push(Event event) {
  const bool first = events_.empty();
  // A reader who is behind gets the tokens of one task as one event.
  if (event.kind == EventKind::kTokens && !first && events_.back().kind == EventKind::kTokens &&
      events_.back().task == event.task) {
    events_.back().tokens.insert(events_.back().tokens.end(), event.tokens.begin(), event.tokens.end());
  } else {
    events_.push_back(std::move(event));
  }
  return first;
}

Result<Sequence*> Engine::find(uint64_t sequence) {
  const auto found = sequences_.find(sequence);
  if (found == sequences_.end()) return Status(Code::kDisposed, "the conversation was disposed of");
  changed_.insert(sequence);
  return found->second.get();
}

uint64_t Engine::adopt(std::unique_ptr<Sequence> sequence) {
  sequences_[next_sequence_] = std::move(sequence);
  changed_.insert(next_sequence_);
  return next_sequence_++;
}

uint64_t Engine::adopt(std::shared_ptr<const AdapterWeights> adapter) {
  adapters_[next_adapter_] = std::move(adapter);
  return next_adapter_++;
}

Result<std::shared_ptr<const AdapterWeights>> Engine::find_adapter(uint64_t adapter) const {
  if (adapter == 0) return std::shared_ptr<const AdapterWeights>();
  const auto place = adapters_.find(adapter);
  if (place == adapters_.end()) return invalid_argument("there is no such adapter: it was disposed of");
  return place->second;
}

void Engine::drop(uint64_t sequence) {
  sequences_.erase(sequence);
  changed_.insert(sequence);
  batch_ceiling_ = options_.max_batch;
}

Status Engine::check_tokens(const std::vector<int32_t>& tokens) const {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= model_->config().vocab_size) {
      return invalid_argument("token id " + std::to_string(tokens[i]) + " at index " + std::to_string(i) +
                              " is outside the model's vocabulary of " +
                              std::to_string(model_->config().vocab_size));
    }
  }
  return Status();
}

void Engine::grow_batch(int64_t rows) {
  // In powers of two, so that a growing crowd lays scratch memory out a few times only.
  int64_t wanted = std::min(static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(rows))), batch_ceiling_);
  for (; wanted > batch_limit_; wanted /= 2) {
    try {
      if (sampler_->prepare(wanted).ok() && model_->prepare(*pool_, {.sequences = wanted}).ok()) {
        batch_limit_ = wanted;
        return;
      }
    } catch (const std::bad_alloc&) {
    }
    // Where there is no memory for more rows at once, answers take turns; it is not asked for again.
    batch_ceiling_ = std::max(batch_limit_, wanted / 2);
  }
}

Status Engine::load() {
  LONGHAUL_ASSIGN(ChosenDevice device, choose_device(options_.device, options_.threads));
  backend_ = std::move(device.backend);
  device_note_ = std::move(device.note);
  int64_t told = 0;
  const LoadProgress progress = [&](int64_t done, int64_t total) {
    // A hundred events are enough for any progress bar.
    if (done - told >= total / 100 || done == total) {
      told = done;
      tell({.task = 0, .kind = EventKind::kProgress, .done = done, .total = total});
    }
    return !load_cancelled_;
  };
  // Before the weights, which take long: a size that cannot be is refused at once.
  LONGHAUL_ASSIGN(const ModelConfig config, load_config(options_.directory));
  LONGHAUL_ASSIGN(const DType dtype, read_weights_dtype(options_.directory));
  LONGHAUL_ASSIGN(pool_, PagePool::create(*backend_, kv_geometry(config, dtype), options_.kv_bytes));
  LONGHAUL_ASSIGN(model_, Transformer::load(*backend_, options_.directory, progress));
  LONGHAUL_ASSIGN(sampler_, Sampler::create(*backend_, model_->stream(), model_->config().vocab_size));
  return Status();
}

void Engine::main() {
  try {
    loaded_ = load();
  } catch (const std::bad_alloc&) {
    loaded_ = out_of_memory("the process has no memory left for the model");
  }
  tell({.task = 0, .kind = loaded_.ok() ? EventKind::kDone : EventKind::kFailed, .status = loaded_});

  for (;;) {
    Turn turn;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return stopping_ || choose(turn); });
      if (stopping_) break;
    }
    run(turn);
  }

  std::deque<std::shared_ptr<Task>> left;
  {
    std::lock_guard lock(mutex_);
    left.swap(tasks_);
  }
  for (const std::shared_ptr<Task>& task : left) {
    tell({.task = task->id, .kind = EventKind::kFailed, .status = disposed()});
  }
}

bool Engine::choose(Turn& turn) {
  turn = Turn();
  std::vector<uint64_t> lanes;
  for (const std::shared_ptr<Task>& task : tasks_) {
    const std::span<const uint64_t> own = task->lanes();
    const bool behind = std::any_of(own.begin(), own.end(), [&](uint64_t lane) {
      return std::find(lanes.begin(), lanes.end(), lane) != lanes.end();
    });
    lanes.insert(lanes.end(), own.begin(), own.end());
    if (behind || task->waiting()) continue;
    // Asked once: a cancellation may come at any time, and has its effect in the next turn.
    if (GenerateTask* decoding = task->decoding(); decoding != nullptr) {
      turn.decoding.push_back({task, decoding});
    } else if (turn.alone == nullptr || task->last_turn < turn.alone->last_turn) {
      turn.alone = task;
    }
  }
  if (turn.decoding.empty() && turn.alone == nullptr) return false;
  turn.answers = static_cast<int64_t>(turn.decoding.size());
  if (turn.answers > batch_limit_) {
    std::stable_sort(turn.decoding.begin(), turn.decoding.end(),
                     [](const auto& a, const auto& b) { return a.first->last_turn < b.first->last_turn; });
    turn.decoding.resize(static_cast<size_t>(batch_limit_));
  }
  // Each its own number: among equals the same would always be left out.
  for (const auto& [task, decoding] : turn.decoding) task->last_turn = ++turns_;
  if (turn.alone != nullptr) {
    turn.alone->last_turn = ++turns_;
    turn.alone->begun = true;
  }
  return true;
}

void Engine::run(Turn& turn) {
  if (turn.answers > batch_limit_) grow_batch(turn.answers);
  if (!turn.decoding.empty()) {
    std::vector<GenerateTask*> tasks;
    for (const auto& [task, decoding] : turn.decoding) tasks.push_back(decoding);
    const std::vector<Result<bool>> outcomes = decode_together(*this, tasks);
    for (size_t i = 0; i < outcomes.size(); ++i) {
      const Result<bool>& finished = outcomes[i];
      if (!finished.ok() || finished.value()) end(std::move(turn.decoding[i].first), finished.status());
    }
  }
  if (turn.alone == nullptr) return;
  Result<bool> finished = false;
  try {
    finished = loaded_.ok() ? turn.alone->step(*this) : loaded_;
  } catch (const std::bad_alloc&) {
    finished = out_of_memory("the process has no memory left");
  }
  if (!finished.ok() || finished.value()) end(std::move(turn.alone), finished.status());
}

void Engine::end(std::shared_ptr<Task> task, const Status& outcome) {
  const uint64_t id = task->id;
  {
    std::lock_guard lock(mutex_);
    tasks_.erase(std::find(tasks_.begin(), tasks_.end(), task));
  }
  // Whoever hears of a failure finds what the task held free again.
  task.reset();
  if (!outcome.ok()) tell({.task = id, .kind = EventKind::kFailed, .status = outcome});
}

void Engine::publish() {
  if (sampler_ == nullptr) return;  // still loading
  EngineMemory memory{.weights_bytes = static_cast<int64_t>(backend_->allocated(MemoryUse::kWeights)),
                      .workspace_bytes = static_cast<int64_t>(backend_->allocated(MemoryUse::kWorkspace)),
                      .table_bytes = static_cast<int64_t>(backend_->allocated(MemoryUse::kTables)),
                      .pool_bytes = static_cast<int64_t>(backend_->allocated(MemoryUse::kPool)),
                      .reserved_bytes = pool_->reserved_pages() * pool_->page_bytes(),
                      .used_bytes = pool_->used_pages() * pool_->page_bytes(),
                      .peak_bytes = pool_->peak_pages() * pool_->page_bytes()};
  std::map<uint64_t, SequenceMemory> sequences;
  for (const uint64_t id : changed_) {
    const auto found = sequences_.find(id);
    if (found == sequences_.end()) continue;
    Result<SequenceMemory> of_sequence = found->second->memory();
    // A device that is lost tells nothing any more: what was known last still stands. Whoever uses the
    // sequence hears of the failure.
    if (of_sequence.ok()) sequences[id] = std::move(of_sequence.value());
  }
  std::lock_guard lock(mutex_);
  memory_ = memory;
  for (const uint64_t id : changed_) {
    if (!sequences_.contains(id)) sequence_memory_.erase(id);
  }
  for (auto& [id, of_sequence] : sequences) sequence_memory_[id] = std::move(of_sequence);
  changed_.clear();
}

}  // namespace longhaul
