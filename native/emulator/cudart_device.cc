// The one device of the emulated runtime, and the names of errors.
#include <cstdio>
#include <cstring>

#include "emulator/runtime.h"

using namespace longhaul::emulator;

namespace {

struct Named {
  cudaError_t error;
  const char* name;
  const char* words;
};
constexpr Named kErrors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection", "invalid copy direction for memcpy"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources", "too many resources requested for launch"},
    {cudaErrorLaunchTimeout, "cudaErrorLaunchTimeout", "the launch timed out and was terminated"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotPermitted, "cudaErrorNotPermitted", "operation not permitted"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureUnmatched, "cudaErrorStreamCaptureUnmatched",
     "capture was not ended in the same stream as it began"},
    {cudaErrorStreamCaptureUnjoined, "cudaErrorStreamCaptureUnjoined", "capturing stream has unjoined work"},
    {cudaErrorStreamCaptureIsolation, "cudaErrorStreamCaptureIsolation",
     "dependency created on uncaptured work in another stream"},
    {cudaErrorIllegalState, "cudaErrorIllegalState", "the operation cannot be performed in the present state"},
    {cudaErrorECCUncorrectable, "cudaErrorECCUncorrectable", "uncorrectable ECC error encountered"},
    {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"},
};

const Named* find_error(cudaError_t error) {
  for (const Named& named : kErrors)
    if (named.error == error) return &named;
  return nullptr;
}

}  // namespace

extern "C" {

const char* cudaGetErrorName(cudaError_t error) {
  const Named* named = find_error(error);
  return named != nullptr ? named->name : "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t error) {
  const Named* named = find_error(error);
  return named != nullptr ? named->words : "unrecognized error code";
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  ApiCall call;
  *count = 1;
  return call.result(call.lost());
}
cudaError_t cudaGetDevice(int* device) {
  ApiCall call;
  *device = 0;
  return call.result(call.lost());
}
cudaError_t cudaSetDevice(int device) {
  ApiCall call;
  if (device != 0) return call.result(cudaErrorInvalidDevice);
  return call.result(call.lost());
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  ApiCall call;
  if (device != 0) return call.result(cudaErrorInvalidDevice);
  const DeviceModel& model = device_model();
  const bool hopper = model.compute_capability >= 90;
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
      *value = model.compute_capability / 10;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = model.compute_capability % 10;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = model.multiprocessors;
      break;
    case cudaDevAttrMaxThreadsPerBlock:
      *value = 1024;
      break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = 2048;
      break;
    case cudaDevAttrWarpSize:
      *value = 32;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = 48 << 10;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = (hopper ? 227 : 163) << 10;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = (hopper ? 228 : 164) << 10;
      break;
    case cudaDevAttrL2CacheSize:
      *value = (hopper ? 50 : 40) << 20;
      break;
    case cudaDevAttrMemoryPoolsSupported:
      *value = 1;
      break;
    default:
      return call.result(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  ApiCall call;
  if (device != 0) return call.result(cudaErrorInvalidDevice);
  const DeviceModel& model = device_model();
  const bool hopper = model.compute_capability >= 90;
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "CUDA emulator");
  properties->major = model.compute_capability / 10;
  properties->minor = model.compute_capability % 10;
  properties->multiProcessorCount = model.multiprocessors;
  properties->totalGlobalMem = model.memory_bytes;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = 1024;
  properties->maxThreadsPerMultiProcessor = 2048;
  properties->sharedMemPerBlock = size_t{48} << 10;
  properties->sharedMemPerBlockOptin = size_t{hopper ? 227u : 163u} << 10;
  properties->sharedMemPerMultiprocessor = size_t{hopper ? 228u : 164u} << 10;
  properties->l2CacheSize = (hopper ? 50 : 40) << 20;
  properties->concurrentKernels = 1;
  properties->asyncEngineCount = 2;
  return call.result(call.lost());
}

cudaError_t cudaDeviceSynchronize() {
  ApiCall call;
  if (spoils_recording()) return call.result(cudaErrorStreamCaptureUnsupported);
  return call.result(drain_all());
}

}  // extern "C"
