#include "emulator/warp.h"

namespace longhaul::emulator {
namespace {

struct ShuffleIn {
  uint64_t bits;
  int source;
};

}  // namespace

uint64_t shuffle_bits(uint32_t mask, const char* op, uint64_t bits, int source) {
  return collective<uint64_t>(
      mask, op, ShuffleIn{bits, source}, [](CollectiveIn in, CollectiveOut out, uint32_t mask) {
        each_lane(mask, [&](int lane) {
          const int asked = read_lane<ShuffleIn>(in, lane).source;
          const int source = asked < 0 ? lane : asked;
          // The value of a lane that takes no part is undefined: NaN, so that it shows.
          const bool defined = (mask >> source & 1) != 0;
          write_lane(out, lane, defined ? read_lane<ShuffleIn>(in, source).bits : ~uint64_t{0});
        });
      });
}

uint32_t ballot(uint32_t mask, const char* op, bool predicate) {
  return collective<uint32_t>(mask, op, predicate, [](CollectiveIn in, CollectiveOut out, uint32_t mask) {
    uint32_t votes = 0;
    each_lane(mask, [&](int lane) { votes |= uint32_t{read_lane<bool>(in, lane)} << lane; });
    each_lane(mask, [&](int lane) { write_lane(out, lane, votes); });
  });
}

uint32_t match_any(uint32_t mask, uint64_t bits) {
  return collective<uint32_t>(
      mask, "__match_any_sync", bits, [](CollectiveIn in, CollectiveOut out, uint32_t mask) {
        each_lane(mask, [&](int lane) {
          uint32_t equal = 0;
          each_lane(mask, [&](int other) {
            equal |= uint32_t{read_lane<uint64_t>(in, lane) == read_lane<uint64_t>(in, other)} << other;
          });
          write_lane(out, lane, equal);
        });
      });
}

void sync_warp(uint32_t mask) {
  collective<int>(mask, "__syncwarp", 0, [](CollectiveIn, CollectiveOut, uint32_t) { race_sync_warp(); });
}

// The hardware may report any set of converged lanes that holds the caller; the lanes that have not returned
// are the largest, and a kernel that counts on it for more than an optimisation is wrong anyway.
uint32_t active_mask() {
  uint32_t mask = 0;
  const Block& block = *current_block;
  for (int lane = 0; lane < kWarp; ++lane) {
    const int thread = warp_id() * kWarp + lane;
    if (thread < block.threads && block.fibers[static_cast<size_t>(thread)].state != State::kDone)
      mask |= 1u << lane;
  }
  return mask;
}

}  // namespace longhaul::emulator
