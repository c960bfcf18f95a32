// What tests ask of the emulator: which device to be, in which order to run, what to let fail, and what it has
// seen.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "emulator/schedule.h"

namespace longhaul::emulator {

// The device that the runtime shows. Call set_device before the first allocation.
struct DeviceModel {
  int compute_capability = 80;  // 80 or 90: which kernels the backend chooses
  int multiprocessors = 8;
  size_t memory_bytes = size_t{2} << 30;
};
void set_device(const DeviceModel& model);
// As LONGHAUL_EMULATOR_CAPABILITY says (80 without it) until it is set.
const DeviceModel& device_model();

struct Counts {
  uint64_t launches = 0;     // kernels queued, recorded or not
  uint64_t kernels = 0;      // kernels that ran, those of graphs too
  uint64_t allocations = 0;  // of device memory
  uint64_t live_bytes = 0;   // of device memory
};
Counts counts();

// The n-th launch from now (1: the next) is refused with `error`, once.
void fail_launch(uint64_t n, cudaError_t error = cudaErrorLaunchOutOfResources);
// The n-th allocation of device memory from now is refused with cudaErrorMemoryAllocation, once.
void fail_allocation(uint64_t n);
// The n-th kernel that runs from now dies with `error`, and with it the device: every later call returns it.
void lose_device(uint64_t n, cudaError_t error = cudaErrorIllegalAddress);

// What went wrong since the last call: a race, a deadlock, a divergent barrier, memory written past its end.
// Empty when nothing did. Each is printed to stderr too, and loses the device (cudaErrorLaunchFailure).
std::string take_report();

// A device like new: queues dropped, errors forgotten, injections withdrawn. Memory stays allocated.
void reset();

}  // namespace longhaul::emulator
