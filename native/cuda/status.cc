#include "cuda/status.h"

#include <string>

namespace longhaul::cuda {
namespace {

Code code_of(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation:
      return Code::kOutOfMemory;
    case cudaErrorInsufficientDriver:
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
    case cudaErrorDevicesUnavailable:
    case cudaErrorDeviceNotLicensed:
    case cudaErrorSystemNotReady:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInitializationError:
      return Code::kUnsupported;
    // "The process must be terminated and relaunched", as the runtime's documentation puts it.
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorLaunchFailure:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorTensorMemoryLeak:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContained:
    case cudaErrorExternalDevice:
    case cudaErrorContextIsDestroyed:
    case cudaErrorCudartUnloading:
    case cudaErrorUnknown:
      return Code::kDeviceLost;
    default:
      return Code::kInternal;
  }
}

}  // namespace

Status to_status(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return Status();
  return {code_of(error),
          std::string(what) + ": " + cudaGetErrorName(error) + " (" + cudaGetErrorString(error) + ")"};
}

Status Health::check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return Status();
  // Else the runtime would give the same error once more, to somebody who asks for the last one.
  static_cast<void>(cudaGetLastError());
  Status status = to_status(error, what);
  if (status.code() != Code::kDeviceLost) return status;
  const std::lock_guard lock(mutex_);
  if (!lost_) {
    reason_ = Status(Code::kDeviceLost, status.message() + "; the GPU is lost to this process: start it again");
    lost_ = true;
  }
  return reason_;
}

Status Health::status() const {
  if (!lost_) return Status();
  const std::lock_guard lock(mutex_);
  return reason_;
}

}  // namespace longhaul::cuda
