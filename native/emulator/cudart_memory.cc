// Memory of the emulated runtime: allocations, copies, fills.
#include <cstring>

#include "emulator/runtime.h"

using namespace longhaul::emulator;

namespace {

// Rows of a copy or fill; one row for a plain one.
struct Rows {
  size_t width;
  size_t height;
  size_t to_pitch;
  size_t from_pitch;
};

size_t extent(size_t pitch, const Rows& rows) {
  return rows.height == 0 ? 0 : (rows.height - 1) * pitch + rows.width;
}

void copy_rows(void* to, const void* from, const Rows& rows) {
  for (size_t row = 0; row < rows.height; ++row)
    std::memcpy(static_cast<char*>(to) + row * rows.to_pitch,
                static_cast<const char*>(from) + row * rows.from_pitch, rows.width);
}

bool matches(cudaMemcpyKind kind, bool to_device, bool from_device) {
  switch (kind) {
    case cudaMemcpyHostToHost:
      return !to_device && !from_device;
    case cudaMemcpyHostToDevice:
      return to_device && !from_device;
    case cudaMemcpyDeviceToHost:
      return !to_device && from_device;
    case cudaMemcpyDeviceToDevice:
      return to_device && from_device;
    case cudaMemcpyDefault:
      return true;
  }
  return false;
}

cudaError_t copy(void* to, const void* from, const Rows& rows, cudaMemcpyKind kind, cudaStream_t stream) {
  if (runtime().lost != cudaSuccess) return runtime().lost;
  if (rows.width == 0 || rows.height == 0) return cudaSuccess;
  const bool to_device = is_device(to), from_device = is_device(from);
  if (!matches(kind, to_device, from_device)) return cudaErrorInvalidMemcpyDirection;
  if (to_device && !in_allocation(to, extent(rows.to_pitch, rows))) return cudaErrorInvalidValue;
  if (from_device && !in_allocation(from, extent(rows.from_pitch, rows))) return cudaErrorInvalidValue;

  const bool recording = state_of(stream).recording != nullptr;
  if (!from_device && !is_pinned(from) && !recording) {
    // Pageable memory is staged before the call returns; pinned memory is read when the copy runs.
    auto staged = std::make_shared<std::vector<char>>(rows.width * rows.height);
    copy_rows(staged->data(), from, {rows.width, rows.height, rows.width, rows.from_pitch});
    const Rows packed{rows.width, rows.height, rows.to_pitch, rows.width};
    return enqueue(stream, [=] {
      copy_rows(to, staged->data(), packed);
      return cudaSuccess;
    });
  }
  if (!to_device && is_pinned(to) && !recording) {
    // Nothing is there before somebody has waited.
    for (size_t row = 0; row < rows.height; ++row)
      std::memset(static_cast<char*>(to) + row * rows.to_pitch, 0xff, rows.width);
  }
  const cudaError_t error = enqueue(stream, [=] {
    copy_rows(to, from, rows);
    return cudaSuccess;
  });
  if (error != cudaSuccess || to_device || is_pinned(to) || recording) return error;
  return drain_stream(stream);  // to pageable memory the call returns when the copy is done
}

cudaError_t fill(void* data, size_t pitch, int value, size_t width, size_t height, cudaStream_t stream) {
  if (runtime().lost != cudaSuccess) return runtime().lost;
  const Rows rows{width, height, pitch, pitch};
  if (width == 0 || height == 0) return cudaSuccess;
  if (!is_device(data) || !in_allocation(data, extent(pitch, rows))) return cudaErrorInvalidValue;
  return enqueue(stream, [=] {
    for (size_t row = 0; row < height; ++row) std::memset(static_cast<char*>(data) + row * pitch, value, width);
    return cudaSuccess;
  });
}

cudaError_t allocate(void** data, size_t bytes) {
  Runtime& all = runtime();
  if (all.lost != cudaSuccess) return all.lost;
  *data = nullptr;
  if (++all.counts.allocations == all.fail_allocation_at) return cudaErrorMemoryAllocation;
  if (bytes == 0) return cudaSuccess;
  *data = allocate_device(bytes);
  return *data != nullptr ? cudaSuccess : cudaErrorMemoryAllocation;
}

}  // namespace

extern "C" {

cudaError_t cudaMalloc(void** data, size_t bytes) {
  ApiCall call;
  if (spoils_recording()) return call.result(cudaErrorStreamCaptureUnsupported);
  return call.result(allocate(data, bytes));
}

cudaError_t cudaFree(void* data) {
  ApiCall call;
  if (spoils_recording()) return call.result(cudaErrorStreamCaptureUnsupported);
  if (data == nullptr) return call.result(call.lost());
  // Waits for whatever may still work on it.
  const cudaError_t error = drain_all();
  if (!free_device(data)) return call.result(cudaErrorInvalidValue);
  return call.result(error);
}

cudaError_t cudaMallocAsync(void** data, size_t bytes, cudaStream_t stream) {
  ApiCall call;
  if (state_of(stream).recording != nullptr) return call.result(cudaErrorStreamCaptureUnsupported);
  cudaError_t error = allocate(data, bytes);
  // Memory whose release is still queued comes back when the queues have run.
  if (error == cudaErrorMemoryAllocation && runtime().counts.allocations != runtime().fail_allocation_at &&
      drain_all() == cudaSuccess && (*data = allocate_device(bytes)) != nullptr)
    error = cudaSuccess;
  return call.result(error);
}

cudaError_t cudaFreeAsync(void* data, cudaStream_t stream) {
  ApiCall call;
  if (data == nullptr) return call.result(call.lost());
  if (state_of(stream).recording != nullptr) return call.result(cudaErrorStreamCaptureUnsupported);
  return call.result(
      enqueue(stream, [data] { return free_device(data) ? cudaSuccess : cudaErrorInvalidValue; }));
}

cudaError_t cudaHostAlloc(void** data, size_t bytes, unsigned) {
  ApiCall call;
  if (call.lost() != cudaSuccess) return call.result(call.lost());
  if (spoils_recording()) return call.result(cudaErrorStreamCaptureUnsupported);
  *data = allocate_pinned(bytes);
  return call.result(*data != nullptr ? cudaSuccess : cudaErrorMemoryAllocation);
}

cudaError_t cudaMallocHost(void** data, size_t bytes) {
  return cudaHostAlloc(data, bytes, cudaHostAllocDefault);
}

cudaError_t cudaFreeHost(void* data) {
  ApiCall call;
  if (data == nullptr) return cudaSuccess;
  const cudaError_t error = drain_all();
  return call.result(free_pinned(data) ? error : cudaErrorInvalidValue);
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  ApiCall call;
  *total = device_model().memory_bytes;
  *free = *total - device_bytes_in_use();
  return call.result(call.lost());
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  ApiCall call;
  return call.result(copy(to, from, {bytes, 1, bytes, bytes}, kind, stream));
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  ApiCall call;
  if (spoils_recording()) return call.result(cudaErrorStreamCaptureUnsupported);
  return call.result(copy(to, from, {bytes, 1, bytes, bytes}, kind, nullptr));
}

cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  ApiCall call;
  if (width > to_pitch || width > from_pitch) return call.result(cudaErrorInvalidValue);
  return call.result(copy(to, from, {width, height, to_pitch, from_pitch}, kind, stream));
}

cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream) {
  ApiCall call;
  return call.result(fill(data, bytes, value, bytes, 1, stream));
}

cudaError_t cudaMemset(void* data, int value, size_t bytes) {
  ApiCall call;
  if (spoils_recording()) return call.result(cudaErrorStreamCaptureUnsupported);
  return call.result(fill(data, bytes, value, bytes, 1, nullptr));
}

cudaError_t cudaMemset2DAsync(void* data, size_t pitch, int value, size_t width, size_t height,
                              cudaStream_t stream) {
  ApiCall call;
  return call.result(fill(data, pitch, value, width, height, stream));
}

}  // extern "C"
