// The race detector of shared memory. Each byte remembers its last write and its readers with the clocks of
// their warps. Two accesses of different threads, one of them a write, are a race unless a barrier, an mbarrier
// or (within a warp) a
// __syncwarp orders them. Shuffles order nothing, as in PTX.
#include "emulator/race.h"

#include <algorithm>
#include <vector>

#include "emulator/block.h"
#include "emulator/source_line.h"
#include "emulator/tensor_copy.h"

namespace longhaul::emulator {
namespace {

struct Access {
  int16_t thread = -1;
  bool atomic = false;
  uint32_t clock = 0;  // of the thread's warp; 0: never
  uint32_t epoch = 0;  // of __syncwarp in that warp
  const void* code = nullptr;
};

struct Cell {
  Access write;
  Access read;                          // the last one
  uint32_t read_clock[kMaxWarps] = {};  // of each warp's last read
  uint32_t read_warps = 0;              // warps that read since the last write
  uint32_t read_lanes = 0;              // lanes of the last reader's warp that read in its epoch
};

// Clocks never go back, so that nothing needs clearing between blocks: what is not above `base` is of an older
// block.
std::vector<Cell> cells;
uint32_t base = 1;

[[noreturn]] void report(const char* kind, size_t offset, const Access& first, int thread, const void* code) {
  char first_line[160], second_line[160];
  source_line(first.code, first_line, sizeof first_line);
  source_line(code, second_line, sizeof second_line);
  fail("shared memory race at byte %zu: %s, thread %d at %s, thread %d at %s", offset, kind, first.thread,
       first_line, thread, second_line);
}

// Whether an access of `warp` with this clock and epoch is not ordered before what the running thread does now.
bool unordered(int warp, uint32_t clock, uint32_t epoch, int own_warp, const WarpClocks& now) {
  if (clock <= base) return false;
  if (warp != own_warp) return clock > now.clock[own_warp].at[warp];
  return clock == now.clock[own_warp].at[warp] && epoch == now.epoch[own_warp];
}

void check_against_write(const Cell& cell, size_t offset, bool write, bool atomic, int thread,
                         const void* code) {
  const Access& last = cell.write;
  if (last.thread == thread || (last.atomic && atomic)) return;
  if (unordered(last.thread / kWarp, last.clock, last.epoch, thread / kWarp, current_block->clocks))
    report(write ? "write after write" : "read after write", offset, last, thread, code);
}

void check_against_reads(const Cell& cell, size_t offset, int thread, const void* code) {
  const int own_warp = thread / kWarp;
  for (uint32_t rest = cell.read_warps; rest != 0; rest &= rest - 1) {
    const int warp = __builtin_ctz(rest);
    bool race = false;
    if (warp != own_warp) {
      race = unordered(warp, cell.read_clock[warp], 0, own_warp, current_block->clocks);
    } else if (cell.read.thread / kWarp == warp) {
      const uint32_t others = cell.read_lanes & ~(1u << thread % kWarp);
      race = others != 0 &&
             unordered(warp, cell.read_clock[warp], cell.read.epoch, own_warp, current_block->clocks);
    }
    if (race) report("write after read", offset, cell.read, thread, code);
  }
}

void remember(Cell& cell, bool write, bool atomic, int thread, const void* code) {
  const int warp = thread / kWarp;
  const uint32_t clock = current_block->clocks.clock[warp].at[warp], epoch = current_block->clocks.epoch[warp];
  if (write) {
    cell.write = {static_cast<int16_t>(thread), atomic, clock, epoch, code};
    cell.read_warps = 0;
    return;
  }
  const bool same_epoch =
      cell.read.thread / kWarp == warp && cell.read.epoch == epoch && cell.read_clock[warp] == clock;
  if (!same_epoch || (cell.read_warps >> warp & 1) == 0) cell.read_lanes = 0;
  cell.read = {static_cast<int16_t>(thread), false, clock, epoch, code};
  cell.read_clock[warp] = clock;
  cell.read_warps |= 1u << warp;
  cell.read_lanes |= 1u << thread % kWarp;
}

}  // namespace

void race_access(const void* data, size_t bytes, AccessKind kind, const void* code) {
  Block* block = current_block;
  if (block == nullptr || current_fiber == nullptr) return;
  const auto offset = static_cast<size_t>(static_cast<const unsigned char*>(data) - block->shared);
  if (offset >= block->shared_bytes) return;  // unsigned: also what lies in front
  const int thread = current_fiber->linear;
  const bool write = kind != AccessKind::kRead, atomic = kind == AccessKind::kAtomic;
  for (size_t i = offset; i < offset + bytes && i < block->shared_bytes; ++i) {
    Cell& cell = cells[i];
    check_against_write(cell, i, write, atomic, thread, code);
    if (write) check_against_reads(cell, i, thread, code);
    remember(cell, write, atomic, thread, code);
  }
}

void race_begin_block() {
  if (cells.empty()) cells.resize(kMaxSharedBytes);
  WarpClocks& clocks = current_block->clocks;
  uint32_t top = base;
  for (const Clock& clock : clocks.clock)
    top = std::max(top, *std::max_element(clock.at, clock.at + kMaxWarps));
  base = top;
  for (int warp = 0; warp < kMaxWarps; ++warp) {
    std::fill(clocks.clock[warp].at, clocks.clock[warp].at + kMaxWarps, top);
    clocks.clock[warp].at[warp] = top + 1;
    clocks.epoch[warp] = 0;
  }
}

void race_release(Clock& clock) {
  Clock& own = current_block->clocks.clock[warp_id()];
  for (int warp = 0; warp < kMaxWarps; ++warp) clock.at[warp] = std::max(clock.at[warp], own.at[warp]);
  ++own.at[warp_id()];
}

void race_acquire(const Clock& clock) {
  Clock& own = current_block->clocks.clock[warp_id()];
  for (int warp = 0; warp < kMaxWarps; ++warp) own.at[warp] = std::max(own.at[warp], clock.at[warp]);
}

void race_sync_warp() {
  ++current_block->clocks.epoch[warp_id()];
}

void note_read(const void* data, size_t bytes) {
  race_access(data, bytes, AccessKind::kRead, __builtin_return_address(0));
}
void note_write(const void* data, size_t bytes) {
  race_access(data, bytes, AccessKind::kWrite, __builtin_return_address(0));
}
void note_atomic(const void* data, size_t bytes) {
  race_access(data, bytes, AccessKind::kAtomic, __builtin_return_address(0));
}

}  // namespace longhaul::emulator
