#include "cpu/thread_pool.h"

#include <pthread.h>
#include <signal.h>

#include <system_error>

namespace longhaul::cpu {
namespace {

// How often a thread looks again before it sleeps: a few microseconds, about the serial part between two ops of
// a decode step. Longer would take a core from neighbours.
constexpr int kLooks = 256;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Workers inherit the mask of the thread that starts them: with every signal blocked, the host's handlers keep
// running on the host's own threads.
class BlockSignals {
 public:
  BlockSignals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~BlockSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

struct Registry {
  std::mutex mutex;
  std::weak_ptr<ThreadPool> pool;
};

// Never destroyed: a backend may be released after this library's static objects are.
Registry& registry() {
  static Registry* const instance = new Registry;
  return *instance;
}

}  // namespace

Result<std::shared_ptr<ThreadPool>> ThreadPool::acquire(int threads) {
  std::shared_ptr<ThreadPool> pool;
  {
    std::lock_guard lock(registry().mutex);
    pool = registry().pool.lock();
    if (pool == nullptr) registry().pool = pool = std::make_shared<ThreadPool>();
  }
  LONGHAUL_TRY(pool->grow(threads));
  return pool;
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  wakeups_.fetch_add(1);
  wakeups_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

Status ThreadPool::grow(int threads) {
  std::lock_guard lock(grow_mutex_);
  const BlockSignals blocked;
  while (static_cast<int>(workers_.size()) + 1 < threads) {
    const int slot = static_cast<int>(workers_.size()) + 1;
    try {
      workers_.emplace_back([this, slot] { worker_main(slot); });
    } catch (const std::system_error& error) {
      return internal_error("cannot start worker thread " + std::to_string(slot) + ": " + error.what());
    }
    pthread_setname_np(workers_.back().native_handle(), "longhaul-cpu");
    worker_count_.store(slot, std::memory_order_relaxed);
  }
  return {};
}

void ThreadPool::run_job(const Job& job, int threads) {
  job_ = job;
  unfinished_.store(static_cast<int>(job.tasks), std::memory_order_relaxed);
  open_.store(static_cast<uint64_t>(threads) << 32 | static_cast<uint64_t>(job.tasks),
              std::memory_order_release);
  wakeups_.fetch_add(1);
  // Waking fewer than all is right only when any sleeper may take part.
  const int64_t helpers = job.tasks - 1;
  const int workers = worker_count_.load(std::memory_order_relaxed);
  if (helpers < workers && workers < threads) {
    for (int64_t i = 0; i < helpers; ++i) wakeups_.notify_one();
  } else {
    wakeups_.notify_all();
  }

  work(0);
  for (int i = 0; i < kLooks && unfinished_.load(std::memory_order_acquire) != 0; ++i) pause();
  for (int left; (left = unfinished_.load(std::memory_order_acquire)) != 0;) unfinished_.wait(left);
}

bool ThreadPool::has_work(int slot) const {
  const uint64_t open = open_.load(std::memory_order_acquire);
  return static_cast<uint32_t>(open) != 0 && static_cast<uint64_t>(slot) < open >> 32;
}

// Claims tasks until none is left. A claim is one successful decrement of open_, so whatever job that was, it
// cannot end before the claimed task does, and job_ is stable until then. Before the claim it is not.
void ThreadPool::work(int slot) {
  uint64_t open = open_.load(std::memory_order_acquire);
  while (static_cast<uint32_t>(open) != 0 && static_cast<uint64_t>(slot) < open >> 32) {
    if (!open_.compare_exchange_weak(open, open - 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
      continue;
    }
    const Job job = job_;
    job.call(job.context, job.tasks - static_cast<uint32_t>(open), slot);
    if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1) unfinished_.notify_one();
    open = open_.load(std::memory_order_acquire);
  }
}

void ThreadPool::worker_main(int slot) {
  for (;;) {
    const int wakeups = wakeups_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_acquire)) return;
    work(slot);
    bool found = false;
    for (int i = 0; i < kLooks && !found; ++i) {
      pause();
      found = has_work(slot);
    }
    // A job published after `wakeups` was read has changed it, and then this returns at once.
    if (!found) wakeups_.wait(wakeups, std::memory_order_acquire);
  }
}

}  // namespace longhaul::cpu
