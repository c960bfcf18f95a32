// Launches of the emulated runtime, and what it says of kernels.
#include <cstdio>

#include "emulator/block.h"
#include "emulator/runtime.h"
#include "emulator/source_line.h"

namespace longhaul::emulator {
namespace {

constexpr int kReservedSharedBytes = 1 << 10;  // of each block, by the system

int shared_per_multiprocessor() {
  return (device_model().compute_capability >= 90 ? 228 : 164) << 10;
}
int shared_per_block() {
  return shared_per_multiprocessor() - kReservedSharedBytes;
}

bool valid(const Launch& launch) {
  const auto inside = [](unsigned value, unsigned most) { return value >= 1 && value <= most; };
  return inside(launch.grid.x, 0x7fffffff) && inside(launch.grid.y, 65535) && inside(launch.grid.z, 65535) &&
         inside(launch.block.x, 1024) && inside(launch.block.y, 1024) && inside(launch.block.z, 64) &&
         launch.block.x * launch.block.y * launch.block.z <= kMaxThreads &&
         launch.shared_bytes <= static_cast<size_t>(shared_per_block());
}

cudaError_t run_kernel(const Launch& launch) {
  Runtime& all = runtime();
  if (++all.counts.kernels == all.lose_at)
    return lose(all.lose_error, "the device was lost, as the test asked");
  char report[640];
  if (run_grid(launch, report, sizeof report)) return cudaSuccess;
  char where[160], message[900];
  source_line(static_cast<const char*>(launch.kernel) + 1, where, sizeof where);
  std::snprintf(message, sizeof message, "kernel at %s: %s", where, report);
  return lose(cudaErrorLaunchFailure, message);
}

}  // namespace

cudaError_t enqueue_launch(cudaStream_t stream, Launch launch) {
  ApiCall call;
  Runtime& all = runtime();
  if (call.lost() != cudaSuccess) return call.result(call.lost());
  if (!valid(launch)) return call.result(cudaErrorInvalidConfiguration);
  if (++all.counts.launches == all.fail_launch_at) return call.result(all.fail_launch_error);
  return call.result(enqueue(stream, [launch = std::move(launch)] { return run_kernel(launch); }));
}

}  // namespace longhaul::emulator

using namespace longhaul::emulator;

extern "C" {

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  ApiCall call;
  if (call.lost() != cudaSuccess) return call.result(call.lost());
  if (function == nullptr) return call.result(cudaErrorInvalidDeviceFunction);
  const bool refused =
      attribute == cudaFuncAttributeMaxDynamicSharedMemorySize && (value < 0 || value > shared_per_block());
  return call.result(refused ? cudaErrorInvalidValue : cudaSuccess);
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int block_size,
                                                                   size_t shared_bytes, unsigned) {
  ApiCall call;
  if (block_size < 1 || block_size > kMaxThreads) return call.result(cudaErrorInvalidValue);
  const int by_threads = 2048 / block_size;
  const int by_shared = shared_per_multiprocessor() / (static_cast<int>(shared_bytes) + kReservedSharedBytes);
  *blocks = by_threads < by_shared ? by_threads : by_shared;
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* function, int block_size,
                                                          size_t shared_bytes) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, block_size, shared_bytes, 0);
}

}  // extern "C"
