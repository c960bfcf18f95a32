#include "emulator/schedule.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace longhaul::emulator {

bool parse_schedule(const char* text, Schedule& out) {
  constexpr size_t kPrefix = sizeof "random:" - 1;
  if (std::strcmp(text, "forward") == 0) {
    out = {Order::kForward, 1};
  } else if (std::strcmp(text, "reverse") == 0) {
    out = {Order::kReverse, 1};
  } else if (std::strncmp(text, "random:", kPrefix) == 0) {
    char* end = nullptr;
    const uint64_t seed = std::strtoull(text + kPrefix, &end, 10);
    if (end == text + kPrefix || *end != '\0') return false;
    out = {Order::kRandom, seed};
  } else {
    return false;
  }
  return true;
}

Schedule& schedule() {
  static Schedule current = [] {
    Schedule first;
    const char* text = std::getenv("LONGHAUL_EMULATOR_SCHEDULE");
    if (text != nullptr && !parse_schedule(text, first))
      std::fprintf(stderr,
                   "LONGHAUL_EMULATOR_SCHEDULE=%s: not forward, reverse or random:SEED; running forward\n",
                   text);
    return first;
  }();
  return current;
}

}  // namespace longhaul::emulator
