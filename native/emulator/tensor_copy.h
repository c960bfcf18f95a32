// The bulk tensor copy engine (TMA): boxes of a tensor in global memory to shared memory, completing on an
// mbarrier.
#pragma once

#include <cstddef>
#include <cstdint>

#include "emulator/mbarrier.h"
#include "emulator/race.h"

namespace longhaul::emulator {

constexpr int kMaxTensorRank = 5;

// What a CUtensorMap says, unpacked. Dimension 0 is the contiguous one.
struct TensorMap {
  const void* base = nullptr;
  int rank = 0;
  int element_bytes = 0;
  int swizzle_bytes = 0;  // 0, 32, 64 or 128
  int64_t size[kMaxTensorRank] = {};
  int64_t stride_bytes[kMaxTensorRank] = {};
  int box[kMaxTensorRank] = {};
};

// Copies the box at `coordinates` (elements; outside the tensor: zeros) to `target`. The descriptor is read
// now, the data when somebody waits on the mbarrier.
void bulk_copy_to_shared(void* target, const TensorMap& map, Mbarrier* barrier, const int* coordinates);
// Copies a box from shared to global memory, as a bulk group.
void bulk_copy_to_global(const TensorMap& map, const void* source, const int* coordinates);
void bulk_commit();
void bulk_wait(int groups);

// Everything under way that completes on this mbarrier.
void land_bulk_copies(Mbarrier* barrier);
// Forgets what a finished or failed block left behind.
void drop_bulk_copies();

// Shared addresses are offsets from the start of the block's memory: 1024-aligned, as on the device.
uint32_t shared_offset(const void* data);
// Where a byte of a 128-, 64- or 32-byte swizzled tile lies.
uint32_t swizzled(uint32_t offset, int swizzle_bytes);

// What came before the arrivals of the present phase of an mbarrier, and before those of the last complete one.
struct MbarrierClocks {
  Clock arriving;
  Clock completed;
};
MbarrierClocks& mbarrier_clocks(const void* barrier);

}  // namespace longhaul::emulator
