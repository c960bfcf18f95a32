// The worker threads of this process, shared by every CPU backend in it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

#include "core/status.h"

namespace longhaul::cpu {

// Runs the tasks of one job at a time over its workers and the calling thread. Tasks are claimed one by one, so
// a worker that the system has put aside costs only the task it holds: the others, and the caller, do the rest.
// A child process made by fork has no workers: it must not use the pool of its parent.
class ThreadPool {
 public:
  // The pool of this process, with at least `threads` threads, the caller counted. It lives as long as someone
  // holds it; its threads are joined when the last holder lets go. kInternal when a thread cannot be started.
  static Result<std::shared_ptr<ThreadPool>> acquire(int threads);

  ThreadPool() = default;
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool();

  // Starts workers until `threads` can work at once.
  Status grow(int threads);

  // Calls body(task, slot) once for every task in [0, tasks) and returns when all are done. At most `threads`
  // work at once, each with a slot in [0, threads) of its own. Any thread may call. While the pool works for
  // another caller, or from inside a task, the calling thread does all tasks itself, in slot 0.
  // At most 2^31 - 1 tasks. Nothing is allocated.
  template <class Body>
  void run(int threads, int64_t tasks, Body&& body) {
    using Callable = std::remove_reference_t<Body>;
    if (threads <= 1 || tasks <= 1 || !claim_pool()) {
      for (int64_t task = 0; task < tasks; ++task) body(task, 0);
      return;
    }
    run_job({[](void* context, int64_t task, int slot) { (*static_cast<Callable*>(context))(task, slot); },
             const_cast<void*>(static_cast<const void*>(&body)), tasks},
            threads);
    release_pool();
  }

 private:
  struct Job {
    void (*call)(void* context, int64_t task, int slot);
    void* context;
    int64_t tasks;
  };

  bool claim_pool() { return !busy_.exchange(true, std::memory_order_acquire); }
  void release_pool() { busy_.store(false, std::memory_order_release); }
  void run_job(const Job& job, int threads);
  void work(int slot);
  void worker_main(int slot);
  bool has_work(int slot) const;

  std::mutex grow_mutex_;
  std::vector<std::thread> workers_;  // worker i has slot i + 1
  std::atomic<int> worker_count_{0};
  std::atomic<bool> busy_{false};

  Job job_{};  // written by the pool's claimant before open_ is, read only after a task was claimed

  // On lines of their own: workers watch the first two while others write the third.
  alignas(64) std::atomic<uint64_t> open_{0};   // threads << 32 | tasks nobody has claimed yet
  alignas(64) std::atomic<int> wakeups_{0};     // changes with every job, and at the end; workers sleep on it
  alignas(64) std::atomic<int> unfinished_{0};  // tasks claimed or open; the caller sleeps on it
  std::atomic<bool> stop_{false};
};

}  // namespace longhaul::cpu
