// mbarrier objects: eight bytes of shared memory that count arrivals and the bytes of bulk copies.
#pragma once

#include <cstdint>

namespace longhaul::emulator {

struct Mbarrier {
  int16_t arrivals_left;  // in this phase
  int16_t arrivals;       // in every phase
  uint32_t phase : 1;
  int32_t bytes : 31;  // announced and not landed
};
static_assert(sizeof(Mbarrier) == 8);

void mbarrier_init(Mbarrier* barrier, int arrivals);
// Arrives once, announcing `bytes` more to land in this phase.
void mbarrier_arrive(Mbarrier* barrier, int bytes = 0);
void mbarrier_complete_bytes(Mbarrier* barrier, int bytes);
// Waits for the end of the phase of this parity. Bulk copies land when somebody waits for them, not before.
void mbarrier_wait(Mbarrier* barrier, uint32_t parity);
bool mbarrier_test(Mbarrier* barrier, uint32_t parity);

}  // namespace longhaul::emulator
