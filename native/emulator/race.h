// What happens before what in shared memory. Barriers and mbarriers release and acquire vector clocks, one
// entry a warp; race.cc compares every load and store with them. In builds without the detector all of it is
// nothing.
#pragma once

#include <cstddef>
#include <cstdint>

namespace longhaul::emulator {

constexpr int kMaxWarps = 32;

#if defined(LONGHAUL_EMULATOR_RACE)

struct Clock {
  uint32_t at[kMaxWarps] = {};
};
struct WarpClocks {
  Clock clock[kMaxWarps];
  uint32_t epoch[kMaxWarps] = {};  // counts __syncwarp: it orders the lanes of one warp
};

enum class AccessKind : uint8_t { kRead, kWrite, kAtomic };
// One access of the running fiber, from the instruction before `code`. Memory that is not the block's shared
// memory is ignored.
void race_access(const void* data, size_t bytes, AccessKind kind, const void* code);

void race_begin_block();
void race_release(Clock& clock);
void race_acquire(const Clock& clock);
void race_sync_warp();
// Accesses that no instrumented code makes: copies of the asynchronous engines, ldmatrix, wgmma.
void note_read(const void* data, size_t bytes);
void note_write(const void* data, size_t bytes);
// An atomic read and write: races with plain accesses, not with other atomics.
void note_atomic(const void* data, size_t bytes);

#else

struct Clock {};
struct WarpClocks {};

inline void race_begin_block() {}
inline void race_release(Clock&) {}
inline void race_acquire(const Clock&) {}
inline void race_sync_warp() {}
inline void note_read(const void*, size_t) {}
inline void note_write(const void*, size_t) {}
inline void note_atomic(const void*, size_t) {}

#endif

}  // namespace longhaul::emulator
