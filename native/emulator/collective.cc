#include "emulator/collective.h"

namespace longhaul::emulator {

void collective_bytes(uint32_t mask, const char* op, const void* in, size_t in_bytes, void* out,
                      size_t out_bytes, CollectiveFunction compute) {
  Block& block = *current_block;
  Fiber& fiber = *current_fiber;
  const int lane = lane_id();
  const int first = warp_id() * kWarp;
  if ((mask >> lane & 1) == 0) fail("%s: the calling lane is not in the mask %08x", op, mask);
  Collective& meeting = block.collectives[static_cast<size_t>(first + __builtin_ctz(mask))];
  if (meeting.arrived == 0) {
    meeting.mask = mask;
    meeting.op = op;
  } else if (meeting.mask != mask) {
    fail("divergent warp collective: %s with masks %08x and %08x", op, mask, meeting.mask);
  } else if (std::strcmp(meeting.op, op) != 0) {
    fail("divergent warp collective: %s meets %s", op, meeting.op);
  }
  std::memcpy(meeting.in[lane], in, in_bytes);
  meeting.arrived |= 1u << lane;
  if (meeting.arrived == mask) {
    compute(meeting.in, meeting.out, mask);
    meeting.arrived = 0;
    block.wake_all(first, kWarp, [&](const Fiber& other) {
      return (mask >> (other.linear % kWarp) & 1) != 0 && &other != &fiber;
    });
  } else {
    fiber.state = State::kWarpCollective;
    fiber.where = op;
    yield();
  }
  std::memcpy(out, meeting.out[lane], out_bytes);
}

}  // namespace longhaul::emulator
