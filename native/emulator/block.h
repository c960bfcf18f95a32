// One thread block: a fiber for each CUDA thread, all on one OS thread, and what they share.
//
// A fiber runs until it has to wait for another (barrier, warp collective, mbarrier) and then goes straight to
// the next ready one. Exactly one block runs at a time in the process (launch.cc holds the lock), so the
// running block and fiber are plain globals.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "emulator/race.h"
#include "emulator/schedule.h"
#include "emulator/toolkit.h"

namespace longhaul::emulator {

constexpr int kWarp = 32;
constexpr int kWarpgroup = 128;
constexpr int kMaxThreads = 1024;
constexpr int kBarriers = 16;
// What a block may have on sm_90; sm_80 has 164 KiB less 1 KiB (cudart.cc knows the device).
constexpr size_t kMaxSharedBytes = 227 << 10;

enum class State : uint8_t { kReady, kBlockBarrier, kWarpCollective, kWarpgroup, kMbarrier, kDone };

struct AsyncCopy {
  void* target;
  const void* source;
  int bytes;
  int source_bytes;  // the rest is zeros
};

struct Fiber {
  void* stack_pointer = nullptr;
  unsigned char* stack = nullptr;  // lowest usable address
  uint3 tid{};
  int linear = 0;
  State state = State::kDone;
  const char* where = "";                      // what it waits in, for reports
  int barrier = 0;                             // with kBlockBarrier
  const void* mbarrier = nullptr;              // with kMbarrier
  std::vector<AsyncCopy> open_copies;          // issued, not committed
  std::vector<std::vector<AsyncCopy>> groups;  // committed, not waited for
  void* fake_stack = nullptr;                  // AddressSanitizer's
};

// Meeting place of the lanes of one mask of one warp: the last lane to arrive computes for all.
struct Collective {
  uint32_t mask = 0;
  uint32_t arrived = 0;
  const char* op = nullptr;
  alignas(16) unsigned char in[kWarp][64];
  alignas(16) unsigned char out[kWarp][64];
};

struct Barrier {
  int arrived = 0;
  int expected = 0;  // 0: every thread that lives
  const char* where = "";
  uint32_t generation = 0;
  int reduced[2][2] = {};  // true and false predicates of __syncthreads_*, for even and odd generations
  // What arrived threads have done. A thread resumes when others may already arrive for the next time, so what
  // a release let through is kept apart.
  Clock arriving;
  Clock released;
};

struct Block {
  uint3 index{};
  dim3 block_dim;
  dim3 grid_dim;
  int threads = 0;
  int live = 0;
  unsigned char* shared = nullptr;  // 1024-aligned
  size_t shared_bytes = 0;
  std::vector<Fiber> fibers;
  std::unique_ptr<Collective[]> collectives;  // [warp][lowest lane of the mask]
  Barrier barriers[kBarriers];
  WarpClocks clocks;
  ScheduleRandom random;
  const std::function<void()>* body = nullptr;
  char error[512] = {};  // empty while all is well

  // Runs one block to its end; `error` says what went wrong. Fibers of a failed block are abandoned where they
  // are: unwinding them would need exceptions that cross stacks.
  void run();
  void wake(int thread);
  // Wakes those of the first `count` fibers from `first` for which `waits` holds, in the schedule's order.
  template <class Waits>
  void wake_all(int first, int count, Waits waits) {
    const bool reverse = schedule().order == Order::kReverse;
    for (int i = 0; i < count; ++i) {
      const int thread = first + (reverse ? count - 1 - i : i);
      if (waits(fibers[static_cast<size_t>(thread)])) wake(thread);
    }
  }
  void release_barriers();

 private:
  friend void yield();
  friend void fiber_entry();
  void reserve();
  void start_fiber(int thread);
  void paint_shared();
  void check_shared();
  void report_deadlock();
  Fiber* pick();
  void enter(Fiber* fiber);

  int ready_[kMaxThreads];  // a ring: every fiber is in it once at most
  int ready_head_ = 0;
  int ready_count_ = 0;
  bool from_main_ = false;  // the fiber now starting was entered from run(), not from another fiber
  void* main_stack_pointer_ = nullptr;
  void* main_fake_stack_ = nullptr;
  const void* main_bottom_ = nullptr;
  size_t main_size_ = 0;
};

extern Block* current_block;  // null: host code is running
extern Fiber* current_fiber;

// Leaves the running fiber for the next ready one, or for Block::run when none is.
void yield();

// Ends the block with this message, led by the block's and the thread's index.
[[noreturn, gnu::format(printf, 1, 2)]] void fail(const char* format, ...);

// Fails when [data, data + bytes) is not in the block's shared memory.
void check_shared_range(const char* op, const void* data, size_t bytes);

inline int lane_id() {
  return current_fiber->linear % kWarp;
}
inline int warp_id() {
  return current_fiber->linear / kWarp;
}

}  // namespace longhaul::emulator
