#include "cuda/discovery.h"

#include <fstream>
#include <sstream>

namespace longhaul::cuda {
namespace {

constexpr int kLeastComputeCapability = 80;

// CUDA counts versions as 1000 * major + 10 * minor.
std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// "580.65.06", or nothing: the runtime only knows which CUDA a driver can do.
std::string driver_release() {
  std::ifstream file("/proc/driver/nvidia/version");
  std::string line;
  std::getline(file, line);
  std::istringstream words(line);
  for (std::string word; words >> word;) {
    if (word.find('.') != std::string::npos && word.find_first_not_of("0123456789.") == std::string::npos)
      return word;
  }
  return "";
}

Status no_gpu(cudaError_t error) {
  const Status said = to_status(error, "CUDA cannot be used");
  if (said.code() == Code::kDeviceLost) return said;
  if (error != cudaErrorInsufficientDriver) return unsupported(said.message());
  int supported = 0;
  const cudaError_t asked = cudaDriverGetVersion(&supported);
  std::string advice = "; this build needs an NVIDIA driver for CUDA " + version_text(CUDART_VERSION) +
                       " (release 580 or newer), ";
  const std::string release = driver_release();
  if (asked != cudaSuccess || supported == 0) {
    advice += release.empty() ? "and none is installed" : "and driver " + release + " does not answer";
  } else {
    advice += "and the one installed" + (release.empty() ? "" : ", " + release + ",") + " is for CUDA " +
              version_text(supported);
  }
  return unsupported(said.message() + advice);
}

Status attribute(int device, cudaDeviceAttr which, int& value) {
  return to_status(cudaDeviceGetAttribute(&value, which, device), "reading the GPU's attributes");
}

}  // namespace

Result<FoundDevice> find_device(int device) {
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    return no_gpu(error);
  }
  if (device < 0 || device >= count) {
    return unsupported("there is no GPU " + std::to_string(device) + ": CUDA counts them from 0 and sees " +
                       std::to_string(count));
  }
  cudaDeviceProp properties{};
  LONGHAUL_TRY(to_status(cudaGetDeviceProperties(&properties, device), "reading the GPU's properties"));
  int shared = 0;
  LONGHAUL_TRY(attribute(device, cudaDevAttrMaxSharedMemoryPerBlockOptin, shared));

  FoundDevice found;
  found.traits = {.device = device,
                  .compute_capability = properties.major * 10 + properties.minor,
                  .multiprocessors = properties.multiProcessorCount,
                  .shared_memory_per_block = static_cast<size_t>(shared)};
  const std::string capability = std::to_string(properties.major) + "." + std::to_string(properties.minor);
  if (found.traits.compute_capability < kLeastComputeCapability) {
    return unsupported(std::string(properties.name) + " has compute capability " + capability +
                       "; longhaul needs 8.0 or newer");
  }
  int driver = 0;
  LONGHAUL_TRY(to_status(cudaDriverGetVersion(&driver), "asking for the driver's version"));
  const std::string release = driver_release();
  found.description = std::string(properties.name) + ", " + std::to_string(found.traits.multiprocessors) +
                      " multiprocessors, compute capability " + capability +
                      (release.empty() ? "" : ", driver " + release) + ", CUDA " + version_text(driver);
  return found;
}

}  // namespace longhaul::cuda
