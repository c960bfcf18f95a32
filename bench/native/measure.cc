#include "measure.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <initializer_list>

namespace longhaul::bench {
namespace {

using Step = std::function<Status()>;

// Seconds until the work of `calls` times all steps is done.
Result<double> timed(std::initializer_list<const Step*> steps, Stream& stream, int64_t calls) {
  const double begin = now();
  for (int64_t i = 0; i < calls; ++i) {
    for (const Step* step : steps) LONGHAUL_TRY((*step)());
  }
  LONGHAUL_TRY(stream.synchronize());
  return now() - begin;
}

// Seconds for `calls` calls, without the time restoring takes.
Result<double> window(const Operation& operation, Stream& stream, bool asynchronous, int64_t calls) {
  if (!operation.restore) return timed({&operation.call}, stream, calls);
  if (asynchronous) {
    LONGHAUL_ASSIGN(const double both, timed({&operation.restore, &operation.call}, stream, calls));
    LONGHAUL_ASSIGN(const double restores, timed({&operation.restore}, stream, calls));
    return std::max(both - restores, 1e-9 * static_cast<double>(calls));
  }
  double seconds = 0;
  for (int64_t i = 0; i < calls; ++i) {
    LONGHAUL_TRY(operation.restore());
    const double begin = now();
    LONGHAUL_TRY(operation.call());
    seconds += now() - begin;
  }
  return seconds;
}

}  // namespace

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Timing summarise(std::vector<double> windows, int64_t calls) {
  std::sort(windows.begin(), windows.end());
  const auto at = [&](double quantile) {
    return windows[static_cast<size_t>(std::lround(quantile * static_cast<double>(windows.size() - 1)))];
  };
  return {at(0), at(0.5), at(0.1), at(0.9), static_cast<int64_t>(windows.size()), calls};
}

Result<Timing> measure(const Operation& operation, Stream& stream, bool asynchronous, const Limits& limits) {
  // The first call touches pages and fills tables; the second says how long a call takes.
  LONGHAUL_ASSIGN([[maybe_unused]] double warm, window(operation, stream, asynchronous, 1));
  LONGHAUL_ASSIGN(double once, window(operation, stream, asynchronous, 1));
  const auto calls = static_cast<int64_t>(std::ceil(limits.window / std::max(once, 1e-8)));
  std::vector<double> windows;
  const double begin = now();
  while (now() - begin < limits.seconds || static_cast<int64_t>(windows.size()) < limits.least_windows) {
    LONGHAUL_ASSIGN(double seconds, window(operation, stream, asynchronous, calls));
    windows.push_back(seconds / static_cast<double>(calls));
  }
  const auto total = static_cast<int64_t>(windows.size()) * calls;
  return summarise(std::move(windows), total);
}

}  // namespace longhaul::bench
