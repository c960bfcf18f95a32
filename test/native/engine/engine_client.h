// An engine as its callers see it: tasks go in, events come out on the engine's thread and are kept.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <latch>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "devices_under_test.h"
#include "engine/engine.h"

namespace longhaul::testing {

// Holds an engine's thread from the first event of a task on (in the watch of an EngineClient) until it is
// opened: what is submitted meanwhile stays queued.
class Gate {
 public:
  void hold(const Event& event, uint64_t task) {
    if (event.task != task || held_.exchange(true)) return;
    reached_.count_down();
    opened_.wait();
  }
  void wait_until_held() { reached_.wait(); }
  void open() { opened_.count_down(); }

 private:
  std::atomic<bool> held_{false};
  std::latch reached_{1}, opened_{1};
};

inline bool is_last(const Event& event) {
  return event.kind == EventKind::kDone || event.kind == EventKind::kFailed;
}

class EngineClient {
 public:
  // `watch` sees every event on the engine's thread, before the engine goes on.
  explicit EngineClient(const std::string& directory, std::function<void(Engine&, const Event&)> watch = {},
                        int64_t kv_bytes = 4 << 20, int64_t max_batch = 32)
      : watch_(std::move(watch)),
        engine_(std::make_unique<Engine>(EngineOptions{.directory = directory,
                                                       .device = kFastDevice,
                                                       .threads = 2,
                                                       .kv_bytes = kv_bytes,
                                                       .max_batch = max_batch},
                                         [this] { collect(); })),
        raw_(engine_.get()) {
    made_.count_down();
  }
  ~EngineClient() { dispose(); }

  Engine& operator*() { return *engine_; }
  Engine* operator->() { return engine_.get(); }

  void dispose() { engine_.reset(); }

  // Waits for the task's last event.
  Event last(uint64_t task) {
    return wait([&](const Event& event) { return event.task == task && is_last(event); });
  }

  // Waits until `tokens` tokens of the task are told.
  void wait_for_tokens(uint64_t task, size_t tokens) {
    std::unique_lock lock(mutex_);
    arrived_.wait(lock, [&] { return tokens_told(task).size() >= tokens; });
  }

  std::vector<int32_t> tokens(uint64_t task) {
    std::lock_guard lock(mutex_);
    return tokens_told(task);
  }

  std::vector<Event> events() {
    std::lock_guard lock(mutex_);
    return events_;
  }

  uint64_t sequence(const MemoryPolicy& policy) { return last(engine_->create_sequence(policy)).sequence; }

 private:
  void collect() {
    made_.wait();  // the first event may come before the constructor returns
    const std::vector<Event> events = raw_->take_events();
    for (const Event& event : events) {
      if (watch_) watch_(*raw_, event);
    }
    std::lock_guard lock(mutex_);
    events_.insert(events_.end(), events.begin(), events.end());
    arrived_.notify_all();
  }

  Event wait(const std::function<bool(const Event&)>& wanted) {
    std::unique_lock lock(mutex_);
    std::vector<Event>::iterator found;
    arrived_.wait(lock, [&] {
      found = std::find_if(events_.begin(), events_.end(), wanted);
      return found != events_.end();
    });
    return *found;
  }

  std::vector<int32_t> tokens_told(uint64_t task) const {
    std::vector<int32_t> tokens;
    for (const Event& event : events_) {
      if (event.task == task) tokens.insert(tokens.end(), event.tokens.begin(), event.tokens.end());
    }
    return tokens;
  }

  std::function<void(Engine&, const Event&)> watch_;
  std::latch made_{1};
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::vector<Event> events_;
  std::unique_ptr<Engine> engine_;
  Engine* raw_;  // also while engine_ is being reset
};

}  // namespace longhaul::testing
