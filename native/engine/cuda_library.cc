#include "engine/cuda_library.h"

#include <dlfcn.h>
#include <unistd.h>

namespace longhaul {
namespace {

constexpr const char* kFile = "liblonghaul_cuda.so";
constexpr const char* kSymbol = "longhaul_cuda_devices";

// The directory of the shared object, or program, that this code is in.
std::string own_directory() {
  Dl_info self{};
  if (dladdr(reinterpret_cast<const void*>(&own_directory), &self) == 0 || self.dli_fname == nullptr)
    return ".";
  const std::string path = self.dli_fname;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

std::string linker_error() {
  const char* error = dlerror();
  return error != nullptr ? error : "unknown error";
}

}  // namespace

Result<const DeviceFamily*> open_cuda_library(const std::string& directory) {
  const std::string path = directory + "/" + kFile;
  if (access(path.c_str(), F_OK) != 0) {
    return unsupported("this installation has no CUDA library: " + path + " does not exist");
  }
  // Never closed: the CUDA runtime keeps what it registered for as long as the process lives.
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return unsupported("the CUDA library cannot be loaded: " + linker_error());
  const auto devices = reinterpret_cast<const DeviceFamily* (*)(const char*)>(dlsym(library, kSymbol));
  if (devices == nullptr) return unsupported("this is not longhaul's CUDA library: " + linker_error());
  const DeviceFamily* family = devices(LONGHAUL_INTERFACE);
  if (family == nullptr) {
    return unsupported(path +
                       " was built from other sources, or by another compiler, than what uses it; build " +
                       "or install both together");
  }
  return family;
}

Result<const DeviceFamily*> open_cuda_library() {
  return open_cuda_library(own_directory());
}

}  // namespace longhaul
