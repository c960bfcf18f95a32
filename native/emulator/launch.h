// A kernel launch as the emulator sees it: a grid of blocks and a closure that holds the arguments by value.
#pragma once

#include <cstddef>
#include <functional>

#include "emulator/toolkit.h"

namespace longhaul::emulator {

struct Launch {
  const void* kernel = nullptr;  // its address names it in reports
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;
  std::function<void()> body;  // what one thread does
};

// Runs all blocks, in the schedule's order. False when one of them failed: `report` holds why.
bool run_grid(const Launch& launch, char* report, size_t report_bytes);

// Puts the launch into the stream's queue (or the graph the stream is recording).
cudaError_t enqueue_launch(cudaStream_t stream, Launch launch);

}  // namespace longhaul::emulator
