// Times a call in many short windows: on a machine that others use too, the best windows tell what the code can
// do, the median what it did, and the spread how far to believe either.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/backend.h"
#include "core/status.h"

namespace longhaul::bench {

// One op of the table, set up so that it can be called again and again.
struct Operation {
  std::function<Status()> call;
  // Undoes what a call changed, outside of the clock; empty when calls change nothing that matters.
  std::function<Status()> restore;
};

struct Limits {
  double seconds = 0.4;       // to spend on one case
  double window = 0.002;      // shortest window
  int64_t least_windows = 5;  // even when that takes longer
};

// Seconds per call.
struct Timing {
  double best = 0;
  double median = 0;
  double low = 0;   // tenth percentile
  double high = 0;  // ninetieth percentile
  int64_t windows = 0;
  int64_t calls = 0;
};

double now();

// Best, median and percentiles of `windows`, each the seconds per call of one window.
Timing summarise(std::vector<double> windows, int64_t calls);

// Calls that put their work into `stream` and return before it is done are timed until it is: an
// `asynchronous` device's restores cannot be left out call by call, so they are timed alone and taken off.
Result<Timing> measure(const Operation& operation, Stream& stream, bool asynchronous, const Limits& limits);

}  // namespace longhaul::bench
