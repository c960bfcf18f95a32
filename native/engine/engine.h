// An engine: one model, one KV pool, one thread that does all the work. Callers submit tasks and collect
// events; the thread steps without them until a task finishes, fails or is cancelled. Its turns consist of one
// decode pass over all answers under way, and one step of one other task, the one whose last is longest ago: a
// long prefill holds an answer up for a block at a time.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "engine/layer_profile.h"
#include "engine/sampler.h"
#include "engine/sequence.h"

namespace longhaul {

struct EngineOptions {
  std::string directory;       // config.json and safetensors
  std::string device = "cpu";  // as choose_device takes it
  int threads = 0;             // 0: one per available core
  int64_t kv_bytes = 0;        // of the KV pool
  int64_t max_batch = 32;      // sequences of one decode pass
};

enum class EventKind : uint8_t {
  kProgress,  // done of total: bytes while loading, tokens while ingesting
  kTokens,    // `tokens` were drawn
  kDone,      // the last event of a task that succeeded, with its results
  kFailed,    // the last event of a task that did not: status
};

enum class FinishReason : uint8_t { kNone, kStop, kLength, kCancelled };

// What a task tells. Fields that a kind does not name are empty.
struct Event {
  uint64_t task = 0;
  EventKind kind = EventKind::kDone;
  int64_t done = 0;
  int64_t total = 0;
  std::vector<int32_t> tokens;
  std::vector<float> values;  // logits, log-probabilities, hidden states, similarities
  FinishReason finish = FinishReason::kNone;
  uint64_t sequence = 0;                       // kDone of create_sequence and import_sequence
  uint64_t adapter = 0;                        // kDone of load_adapter, with its device memory in `done`
  std::shared_ptr<const SequenceImage> image;  // kDone of export_sequence
  std::vector<uint8_t> bytes;                  // kDone of export_rows
  int64_t reserved_bytes = 0;                  // of the working cache of ingest_shared, until kDone
  int64_t peak_bytes = 0;                      // the most that it held
  Status status;
};

struct EngineMemory {
  int64_t weights_bytes = 0;
  int64_t workspace_bytes = 0;
  int64_t table_bytes = 0;
  int64_t pool_bytes = 0;  // the whole pool
  int64_t reserved_bytes = 0;
  int64_t used_bytes = 0;
  int64_t peak_bytes = 0;
};

struct GenerateOptions {
  int32_t max_tokens = 0;
  SampleParams params;
  std::vector<int32_t> stop_tokens;
  // False: refuse at once when question and answer do not fit the tail, so that all of it can be forgotten.
  bool may_evict = true;
  // True: before an eviction, wait until all tokens told are confirmed; after it they cannot be taken back.
  bool confirm = false;
};

struct ScoreOptions {
  bool logits = false;  // values hold [tokens, vocab] logits behind the log-probabilities
};

enum class Pooling : uint8_t { kMean, kLast };

class Engine;
class GenerateTask;

// A piece of work that runs step by step: cancellation takes effect between steps, and so tasks take turns.
class Task {
 public:
  // What texts are read in that belong to no sequence: one after the other, as each takes pages of the pool.
  static constexpr uint64_t kReading = UINT64_MAX;

  virtual ~Task() = default;
  // True when finished; the step has then told its kDone event. A failure is told by the engine.
  virtual Result<bool> step(Engine& engine) = 0;
  // What is told when it is cancelled; none where it runs all the same.
  virtual std::optional<Event> cancelled_event() const = 0;
  // Tasks of one lane (a sequence, or kReading) run in the order they came. One of no lane waits for nobody.
  virtual std::span<const uint64_t> lanes() const = 0;
  // Not null while its next step is a row of a decode pass, which many tasks share.
  virtual GenerateTask* decoding() { return nullptr; }
  // True while its next step has to wait for a confirmation.
  virtual bool waiting() const { return false; }

  uint64_t id = 0;
  std::atomic<bool> cancelled{false};
  std::atomic<int64_t> confirmed{0};
  // The engine's, with its mutex held.
  bool begun = false;
  uint64_t last_turn = 0;  // counts up through all tasks: whose is the longest ago comes next
};

class Engine {
 public:
  // Starts the thread, which loads the model: task 0 tells progress, then kDone or kFailed. `notify` is called
  // when events become available after none were, from the engine's thread or inside cancel(); it must neither
  // block nor throw.
  Engine(EngineOptions options, std::function<void()> notify);
  // Finishes the step under way, fails every task with kDisposed and joins.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Each returns the id of its task. Results come as events.
  // `adapter` 0: the model alone.
  uint64_t create_sequence(MemoryPolicy policy, uint64_t adapter = 0);
  uint64_t release_sequence(uint64_t sequence);
  // Reads an adapter from a directory, as mole/adapter_file.h does, and brings it to the device.
  uint64_t load_adapter(std::string directory);
  // No new sequence can use it; its memory is given back when those that do are released.
  uint64_t release_adapter(uint64_t adapter);
  // Sequence::unite of two sequences.
  uint64_t unite(uint64_t first, uint64_t second, int64_t shared_tokens);
  // Block-wise prefill, or into the tail when that is wished for and holds all. kProgress after each block:
  // blocks told are in the cache, whatever comes after.
  uint64_t ingest(uint64_t sequence, std::vector<int32_t> tokens, bool into_tail = false);
  // The same tokens into several sequences with blocks of one size and no pending token: each ends as ingest()
  // would leave it, while weights are read once a block. `done` and `total` are tokens of one of them.
  uint64_t ingest_together(std::vector<uint64_t> sequences, std::vector<int32_t> tokens);
  // The same tokens into several empty sequences by one prefill that they share (engine/shared_prefill.h).
  // `budgets` [layers] are the rows a head that the working cache may keep. Nothing is in them before kDone.
  uint64_t ingest_shared(std::vector<uint64_t> sequences, std::vector<int32_t> tokens,
                         std::vector<int32_t> budgets);
  // Runs `tokens` (behind a pending one), then draws up to max_tokens, fewer when the model's positions end.
  // kDone: `done` tokens of the question are in the stream, and every token told; the last told may be pending.
  uint64_t generate(uint64_t sequence, std::vector<int32_t> tokens, GenerateOptions options);
  // Forgets the newest `tokens` tokens of a sequence, the pending one counted.
  uint64_t truncate(uint64_t sequence, int64_t tokens);
  // What a sequence is, in two parts: the image, and the keys and values of one head at a time, so that nobody
  // needs memory for all of them at once. An imported sequence refuses all work until every head with rows has
  // them.
  uint64_t export_sequence(uint64_t sequence);
  uint64_t export_rows(uint64_t sequence, int32_t layer, int32_t head);
  uint64_t import_sequence(SequenceImage image);
  uint64_t import_rows(uint64_t sequence, int32_t layer, int32_t head, std::vector<uint8_t> rows);
  // values: log-probability of tokens[i + 1] after tokens[0..i], for each i < n - 1; then logits if asked.
  uint64_t score(std::vector<int32_t> tokens, ScoreOptions options);
  // values: final hidden states, pooled over the tokens. [hidden]
  uint64_t embed(std::vector<int32_t> tokens, Pooling pooling);
  // values: LayerProfile::similarity() of a text. [layers]
  uint64_t profile(std::vector<int32_t> tokens, const ProfileOptions& options);

  // Ingesting, generating, scoring, embedding and profiling end with kCancelled before their next step, at once
  // if they have not begun, and so does a create_sequence, export or import that has not; the loading (task 0)
  // fails with it. Other tasks run.
  void cancel(uint64_t task);
  // The first `tokens` tokens told by a generation with `confirm` may become final.
  void confirm(uint64_t task, int64_t tokens);

  std::vector<Event> take_events();

  // As of the last step; from any thread.
  EngineMemory memory() const;
  // kInvalidArgument when there is no such sequence.
  Result<SequenceMemory> sequence_memory(uint64_t sequence) const;
  // Only after task 0's kDone.
  const ModelConfig& config() const { return model_->config(); }
  DType weights_dtype() const { return model_->weights_dtype(); }
  std::string device_name() const { return backend_->name(); }
  std::string device_description() const { return backend_->description(); }
  // Why device "auto" is no GPU; else empty.
  const std::string& device_note() const { return device_note_; }

  // ---- for tasks, on the engine's thread ----
  void tell(Event event);
  Transformer& model() { return *model_; }
  PagePool& pool() { return *pool_; }
  Sampler& sampler() { return *sampler_; }
  Result<Sequence*> find(uint64_t sequence);
  uint64_t adopt(std::unique_ptr<Sequence> sequence);
  void drop(uint64_t sequence);
  uint64_t adopt(std::shared_ptr<const AdapterWeights> adapter);
  // Null for 0. kInvalidArgument when there is none.
  Result<std::shared_ptr<const AdapterWeights>> find_adapter(uint64_t adapter) const;
  void drop_adapter(uint64_t adapter) { adapters_.erase(adapter); }
  Status check_tokens(const std::vector<int32_t>& tokens) const;

 private:
  uint64_t submit(std::unique_ptr<Task> task);
  void main();
  Status load();
  // What runs next: one task alone, and those whose rows share a decode pass.
  struct Turn {
    std::vector<std::pair<std::shared_ptr<Task>, GenerateTask*>> decoding;
    std::shared_ptr<Task> alone;
    int64_t answers = 0;  // under way, also those that this pass has no room for
  };
  // With mutex_ held. False when there is nothing to do.
  bool choose(Turn& turn);
  void run(Turn& turn);
  // Makes room in scratch memory for passes of so many rows, or of as many as there is memory for.
  void grow_batch(int64_t rows);
  // Takes a task that has finished or failed out of the queue, and tells its failure.
  void end(std::shared_ptr<Task> task, const Status& outcome);
  void publish();
  // With mutex_ held. True when notify_ is to be called, without it.
  bool push(Event event);

  EngineOptions options_;
  std::function<void()> notify_;

  std::unique_ptr<Backend> backend_;  // outlives everything allocated on it
  std::string device_note_;
  std::unique_ptr<Transformer> model_;
  std::unique_ptr<PagePool> pool_;
  std::unique_ptr<Sampler> sampler_;
  std::map<uint64_t, std::shared_ptr<const AdapterWeights>> adapters_;
  std::map<uint64_t, std::unique_ptr<Sequence>> sequences_;
  std::set<uint64_t> changed_;  // sequences whose numbers are to be published
  int64_t batch_limit_ = 1;     // rows of a decode pass that there is memory for
  int64_t batch_ceiling_ =
      1;  // that may be asked for; lower where memory was refused, until some is free again
  Status loaded_;
  uint64_t next_sequence_ = 1;
  uint64_t next_adapter_ = 1;

  mutable std::mutex mutex_;  // guards all below
  std::condition_variable wake_;
  std::deque<std::shared_ptr<Task>> tasks_;
  uint64_t turns_ = 0;
  uint64_t next_task_ = 1;
  std::vector<Event> events_;
  EngineMemory memory_;
  std::map<uint64_t, SequenceMemory> sequence_memory_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> load_cancelled_{false};

  std::thread thread_;
};

}  // namespace longhaul
