// The CUDA runtime API over host memory.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "emulator/launch.h"

namespace longhaul::emulator {
cudaError_t enqueue_launch(cudaStream_t, Launch launch) {
  char report[512];
  if (run_grid(launch, report, sizeof report)) return cudaSuccess;
  std::fprintf(stderr, "cuda emulator: %s\n", report);
  return cudaErrorLaunchFailure;
}
}  // namespace longhaul::emulator

extern "C" {
cudaError_t cudaMalloc(void** p, size_t n) {
  *p = aligned_alloc(256, (n + 255) & ~size_t(255));
  if (*p != nullptr) memset(*p, 0xff, n);
  return *p != nullptr ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFree(void* p) {
  free(p);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* d, const void* s, size_t n, cudaMemcpyKind, cudaStream_t) {
  memcpy(d, s, n);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* d, const void* s, size_t n, cudaMemcpyKind) {
  memcpy(d, s, n);
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned) {
  *s = nullptr;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) {
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t) {
  return cudaSuccess;
}
const char* cudaGetErrorString(cudaError_t e) {
  return e == cudaSuccess ? "no error" : "error";
}
}
