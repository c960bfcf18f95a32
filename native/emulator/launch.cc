#include "emulator/launch.h"

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <vector>

#include "emulator/block.h"

namespace longhaul::emulator {
namespace {

// Blocks in the order in which they run: the hardware promises none.
std::vector<uint64_t> block_order(uint64_t blocks, ScheduleRandom& random) {
  std::vector<uint64_t> order(blocks);
  std::iota(order.begin(), order.end(), uint64_t{0});
  if (schedule().order == Order::kReverse) std::reverse(order.begin(), order.end());
  if (schedule().order == Order::kRandom)
    for (uint64_t i = blocks; i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
  return order;
}

}  // namespace

bool run_grid(const Launch& launch, char* report, size_t report_bytes) {
  static Block block;  // its stacks and shared memory are mapped once
  static uint64_t launches = 0;
  block.block_dim = launch.block;
  block.grid_dim = launch.grid;
  block.threads = static_cast<int>(launch.block.x * launch.block.y * launch.block.z);
  block.shared_bytes = launch.shared_bytes;
  block.body = &launch.body;
  block.random = ScheduleRandom(schedule().seed + ++launches);
  const uint64_t x = launch.grid.x, y = launch.grid.y, blocks = x * y * launch.grid.z;
  for (const uint64_t i : block_order(blocks, block.random)) {
    block.index = {static_cast<unsigned>(i % x), static_cast<unsigned>(i / x % y),
                   static_cast<unsigned>(i / (x * y))};
    block.run();
    if (block.error[0] == '\0') continue;
    std::snprintf(report, report_bytes, "%s", block.error);
    return false;
  }
  return true;
}

}  // namespace longhaul::emulator
