#include "emulator/barrier.h"

#include <cstring>

#include "emulator/block.h"

namespace longhaul::emulator {
namespace {

void arrive(int id, int expected, const char* name) {
  Barrier& barrier = current_block->barriers[id];
  if (barrier.arrived > 0 && barrier.expected != expected)
    fail("%s: the barrier is in use with another number of threads (%d, not %d)", name, barrier.expected,
         expected);
  // Named barriers are met from different lines by design (one side arrives, the other waits); __syncthreads is
  // not.
  if (id == 0 && barrier.arrived > 0 && std::strcmp(barrier.where, name) != 0)
    fail("divergent barrier: %s meets %s", name, barrier.where);
  barrier.expected = expected;
  barrier.where = name;
  ++barrier.arrived;
  race_release(barrier.arriving);
}

void wait(int id, const char* name) {
  Fiber& fiber = *current_fiber;
  fiber.state = State::kBlockBarrier;
  fiber.where = name;
  fiber.barrier = id;
  current_block->release_barriers();
  yield();
  race_acquire(current_block->barriers[id].released);
}

}  // namespace

void Block::release_barriers() {
  for (int id = 0; id < kBarriers; ++id) {
    Barrier& barrier = barriers[id];
    // Threads that have returned no longer count towards __syncthreads (the rule from sm_70 on).
    const int expected = barrier.expected > 0 ? barrier.expected : live;
    if (barrier.arrived == 0 || barrier.arrived < expected) continue;
    barrier.arrived = 0;
    barrier.released = barrier.arriving;
    ++barrier.generation;
    int* next = barrier.reduced[barrier.generation % 2];  // read by everybody before this release
    next[0] = next[1] = 0;
    wake_all(0, threads,
             [id](const Fiber& fiber) { return fiber.state == State::kBlockBarrier && fiber.barrier == id; });
  }
}

void barrier_sync(int id, int expected, const char* name) {
  arrive(id, expected, name);
  wait(id, name);
}

void barrier_arrive(int id, int expected, const char* name) {
  arrive(id, expected, name);
  current_block->release_barriers();
}

int barrier_reduce(Reduction reduction, int predicate, const char* name) {
  Barrier& barrier = current_block->barriers[0];
  int* sums =
      barrier.reduced[barrier.generation % 2];  // zeroed one generation ago, when nobody read it any more
  sums[0] += predicate != 0;
  sums[1] += predicate == 0;
  barrier_sync(0, 0, name);
  if (reduction == Reduction::kCount) return sums[0];
  return reduction == Reduction::kAnd ? sums[1] == 0 : sums[0] > 0;
}

}  // namespace longhaul::emulator
