#include "cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

namespace longhaul::cpu {
namespace {

std::shared_ptr<ThreadPool> pool_of(int threads) {
  auto pool = ThreadPool::acquire(threads);
  EXPECT_TRUE(pool.ok()) << pool.status().message();
  return pool.value();
}

TEST(ThreadPool, RunsEveryTaskOnceForManySizes) {
  const auto pool = pool_of(4);
  for (int64_t tasks : {0, 1, 2, 3, 4, 5, 64, 1000}) {
    std::vector<std::atomic<int>> runs(tasks);
    pool->run(4, tasks, [&](int64_t task, int) { runs[task].fetch_add(1); });
    for (int64_t task = 0; task < tasks; ++task) EXPECT_EQ(runs[task].load(), 1) << task << " of " << tasks;
  }
}

TEST(ThreadPool, SlotsAreBelowTheLimitAndNeverSharedAtOnce) {
  const auto pool = pool_of(6);
  for (int threads : {1, 2, 3, 6}) {
    std::vector<std::atomic<int>> inside(threads);
    std::atomic<int> wrong{0};
    pool->run(threads, 2000, [&](int64_t, int slot) {
      if (slot < 0 || slot >= threads) {
        wrong.fetch_add(1);
        return;
      }
      if (inside[slot].fetch_add(1) != 0) wrong.fetch_add(1);
      std::this_thread::yield();
      inside[slot].fetch_sub(1);
    });
    EXPECT_EQ(wrong.load(), 0) << threads << " threads";
  }
}

TEST(ThreadPool, SeveralCallersGetAllTheirTasksDone) {
  const auto pool = pool_of(3);
  constexpr int kCallers = 4;
  constexpr int kJobs = 2000;
  std::vector<int64_t> sums(kCallers);
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&, caller] {
      for (int job = 0; job < kJobs; ++job) {
        std::atomic<int64_t> sum{0};
        const int64_t tasks = job % 17;
        pool->run(3, tasks, [&](int64_t task, int) { sum.fetch_add(task + 1); });
        sums[caller] += sum.load();
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  int64_t expected = 0;
  for (int job = 0; job < kJobs; ++job) expected += (job % 17) * (job % 17 + 1) / 2;
  for (int64_t sum : sums) EXPECT_EQ(sum, expected);
}

TEST(ThreadPool, ResultsOfWorkersAreVisibleToTheCaller) {
  const auto pool = pool_of(4);
  std::vector<int> plain(64);
  for (int job = 1; job <= 5000; ++job) {
    pool->run(4, 64, [&](int64_t task, int) { plain[task] += 1; });
    ASSERT_EQ(plain[job % 64], job);
  }
}

TEST(ThreadPool, NestedJobsRunInline) {
  const auto pool = pool_of(3);
  std::atomic<int> inner{0};
  std::atomic<int> other_slots{0};
  pool->run(3, 20, [&](int64_t, int) {
    const auto here = std::this_thread::get_id();
    pool->run(3, 10, [&](int64_t, int slot) {
      inner.fetch_add(1);
      if (slot != 0 || std::this_thread::get_id() != here) other_slots.fetch_add(1);
    });
  });
  EXPECT_EQ(inner.load(), 200);
  EXPECT_EQ(other_slots.load(), 0);
}

TEST(ThreadPool, WorkersTakePart) {
  const auto pool = pool_of(2);
  // Each task waits for the other: only two threads at once can finish them.
  std::atomic<int> arrived{0};
  pool->run(2, 2, [&](int64_t, int) {
    arrived.fetch_add(1);
    while (arrived.load() < 2) std::this_thread::yield();
  });
  EXPECT_EQ(arrived.load(), 2);
}

TEST(ThreadPool, IsSharedGrowsAndEndsWithItsLastHolder) {
  std::weak_ptr<ThreadPool> watched;
  {
    const auto first = pool_of(2);
    const auto second = pool_of(5);
    EXPECT_EQ(first, second);
    watched = first;
    std::atomic<int> arrived{0};
    second->run(5, 5, [&](int64_t, int) {
      arrived.fetch_add(1);
      while (arrived.load() < 5) std::this_thread::yield();
    });
    EXPECT_EQ(arrived.load(), 5);
  }
  EXPECT_TRUE(watched.expired());
  for (int round = 0; round < 50; ++round) {
    const auto pool = pool_of(4);
    std::atomic<int> runs{0};
    pool->run(4, 8, [&](int64_t, int) { runs.fetch_add(1); });
    EXPECT_EQ(runs.load(), 8);
  }
}

}  // namespace
}  // namespace longhaul::cpu
