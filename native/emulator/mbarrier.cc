#include "emulator/mbarrier.h"

#include "emulator/block.h"
#include "emulator/tensor_copy.h"

namespace longhaul::emulator {
namespace {

// Whoever waits on this mbarrier looks again.
void wake_waiters(const Mbarrier* barrier) {
  current_block->wake_all(0, current_block->threads, [barrier](const Fiber& fiber) {
    return fiber.state == State::kMbarrier && fiber.mbarrier == barrier;
  });
}

void end_phase_if_complete(Mbarrier* barrier) {
  if (barrier->arrivals_left > 0 || barrier->bytes != 0) return;
  MbarrierClocks& clocks = mbarrier_clocks(barrier);
  clocks.completed = clocks.arriving;
  barrier->phase ^= 1;
  barrier->arrivals_left = barrier->arrivals;
  wake_waiters(barrier);
}

}  // namespace

void mbarrier_init(Mbarrier* barrier, int arrivals) {
  if (reinterpret_cast<uintptr_t>(barrier) % sizeof(Mbarrier) != 0) fail("mbarrier: not a multiple of 8 bytes");
  *barrier = {static_cast<int16_t>(arrivals), static_cast<int16_t>(arrivals), 0, 0};
}

void mbarrier_arrive(Mbarrier* barrier, int bytes) {
  race_release(mbarrier_clocks(barrier).arriving);
  if (barrier->arrivals_left <= 0) fail("mbarrier: more arrivals than its count");
  barrier->bytes = barrier->bytes + bytes;
  --barrier->arrivals_left;
  end_phase_if_complete(barrier);
}

void mbarrier_complete_bytes(Mbarrier* barrier, int bytes) {
  barrier->bytes = barrier->bytes - bytes;
  end_phase_if_complete(barrier);
}

bool mbarrier_test(Mbarrier* barrier, uint32_t parity) {
  land_bulk_copies(barrier);
  if (barrier->phase == parity) return false;
  race_acquire(mbarrier_clocks(barrier).completed);
  return true;
}

void mbarrier_wait(Mbarrier* barrier, uint32_t parity) {
  while (!mbarrier_test(barrier, parity)) {
    current_fiber->state = State::kMbarrier;
    current_fiber->where = "mbarrier wait";
    current_fiber->mbarrier = barrier;
    yield();
  }
}

}  // namespace longhaul::emulator
