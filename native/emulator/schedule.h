// In which order the emulator runs what the hardware may run in any order: threads of a block, blocks of a
// grid, streams of a device. A kernel that is right gives the same bits in all of them.
#pragma once

#include <cstdint>

namespace longhaul::emulator {

enum class Order : uint8_t { kForward, kReverse, kRandom };

struct Schedule {
  Order order = Order::kForward;
  uint64_t seed = 1;  // of kRandom
};

// "forward", "reverse" or "random:SEED"; false when the text is none of them.
bool parse_schedule(const char* text, Schedule& out);

// The schedule in force. Starts as LONGHAUL_EMULATOR_SCHEDULE says, forward without it.
Schedule& schedule();

// Xorshift: the same sequence on every machine.
struct ScheduleRandom {
  uint64_t state = 1;
  explicit ScheduleRandom(uint64_t seed = 1) : state((seed + 1) * 0x9e3779b97f4a7c15ull | 1) {}
  uint64_t next() {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
  }
  // Uniform enough for a choice among a few thousand.
  uint64_t below(uint64_t bound) { return (next() >> 11) % bound; }
};

}  // namespace longhaul::emulator
