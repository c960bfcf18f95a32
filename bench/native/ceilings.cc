#include "ceilings.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <thread>
#include <utility>

#include "peak_loops.h"

namespace longhaul::bench {
namespace {

// Windows that a best one is chosen from, even when others keep the cores busy and that takes longer.
constexpr size_t kLeastWindows = 64;
constexpr double kPatience = 4;

// Waits without sleeping, because a late start would count as slow work; but where cores are shared the one
// that is waited for may need this core.
template <class Condition>
void spin_until(Condition&& condition) {
  for (int64_t i = 1; !condition(); ++i) {
    if (i % 4096 == 0) std::this_thread::yield();
  }
}

// Runs `work(thread)` on all threads at once, again and again. A window lasts from the common start to the last
// thread's end.
std::vector<double> windows_of(int threads, double seconds, const std::function<void(int)>& work) {
  std::atomic<int> round{0}, running{0};
  std::atomic<bool> stop{false};
  std::vector<std::thread> workers;
  for (int i = 1; i < threads; ++i) {
    workers.emplace_back([&, i] {
      for (int seen = 0;; ++seen) {
        spin_until([&] { return round.load() != seen || stop.load(); });
        if (stop.load()) return;
        work(i);
        running.fetch_sub(1);
      }
    });
  }
  work(0);
  std::vector<double> windows;
  const double begin = now();
  for (double elapsed = 0;
       elapsed < seconds || (windows.size() < kLeastWindows && elapsed < kPatience * seconds);
       elapsed = now() - begin) {
    running.store(threads - 1);
    const double start = now();
    round.fetch_add(1);
    work(0);
    spin_until([&] { return running.load() == 0; });
    windows.push_back(now() - start);
  }
  stop.store(true);
  for (std::thread& worker : workers) worker.join();
  return windows;
}

Ceiling ceiling(std::string name, const char* unit, const char* detail, int threads, double amount,
                std::vector<double> windows) {
  const Timing timing = summarise(std::move(windows), 0);
  return {std::move(name), threads, unit, detail, amount / timing.best, amount / timing.median};
}

// Every thread walks over `span` bytes of its own, in steps of `step`; a window reads the same 4 MB or more.
Ceiling read_ceiling(const char* name, const ReadLoop& loop, char* data, size_t part, size_t span, size_t step,
                     int threads, double seconds) {
  struct alignas(64) Offset {
    size_t bytes = 0;
  };
  std::vector<Offset> offsets(static_cast<size_t>(threads));
  const size_t repeats = std::max<size_t>((size_t{4} << 20) / step, 1);
  auto windows = windows_of(threads, seconds, [&](int thread) {
    size_t& offset = offsets[static_cast<size_t>(thread)].bytes;
    for (size_t i = 0; i < repeats; ++i) {
      loop.run(data + static_cast<size_t>(thread) * part + offset, step);
      offset = (offset + step) % span;
    }
  });
  return ceiling(name, "B/s", loop.name, threads, static_cast<double>(repeats * step) * threads,
                 std::move(windows));
}

}  // namespace

Result<std::vector<Ceiling>> measure_ceilings(Backend& backend, int threads, const CeilingLimits& limits) {
  std::vector<Ceiling> ceilings;
  const auto keep_best = [&](Ceiling candidate) {
    for (Ceiling& known : ceilings) {
      if (known.name != candidate.name) continue;
      if (candidate.best > known.best) known = std::move(candidate);
      return;
    }
    ceilings.push_back(std::move(candidate));
  };

  const auto readers = read_loops();
  const size_t part = limits.memory_bytes;
  LONGHAUL_ASSIGN(Buffer buffer, backend.allocate(part * static_cast<size_t>(threads), MemoryUse::kWorkspace));
  std::memset(buffer.data(), 1, buffer.bytes());
  auto* data = static_cast<char*>(buffer.data());
  const double share = limits.seconds / static_cast<double>(readers.size());
  for (const ReadLoop& loop : readers) {
    keep_best(read_ceiling("read.memory", loop, data, part, part, size_t{16} << 20, threads, share));
  }
  // The cache of one core, then the one that cores share; both read over and over.
  const std::pair<const char*, size_t> caches[] = {{"read.cache", size_t{256} << 10},
                                                   {"read.shared-cache", size_t{4} << 20}};
  for (const auto& [name, bytes] : caches) {
    for (const ReadLoop& loop : readers) {
      keep_best(read_ceiling(name, loop, data, part, bytes, bytes, threads, share));
    }
  }
  for (const PeakLoop& loop : peak_loops()) {
    constexpr int64_t kRounds = 20000;  // about 0.1 ms
    const bool integer = std::string(loop.kind) == "int8";
    auto windows = windows_of(threads, limits.seconds, [&](int) { loop.run(kRounds); });
    keep_best(ceiling(std::string(loop.kind) + "." + loop.isa, integer ? "OP/s" : "FLOP/s", loop.isa, threads,
                      static_cast<double>(kRounds * loop.operations_per_round) * threads, std::move(windows)));
  }
  return ceilings;
}

}  // namespace longhaul::bench
