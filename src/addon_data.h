// What one environment (the main thread or a worker) holds of the addon. Nothing is static: environments come
// and go on their own.
#pragma once

#include <memory>
#include <string>

#include "core/backend.h"

namespace longhaul {

struct AddonData {
  // Made when a kernel first asks for it and kept, so that a call does not start threads.
  std::shared_ptr<Backend> cpu;
  std::shared_ptr<Backend> reference;

  Result<std::shared_ptr<Backend>> backend(const std::string& device) {
    if (device != "cpu" && device != "reference") {
      return unsupported("there is no device '" + device + "' in this build");
    }
    std::shared_ptr<Backend>& slot = device == "cpu" ? cpu : reference;
    if (slot == nullptr) {
      LONGHAUL_ASSIGN(slot, device == "cpu" ? make_cpu_backend(0) : make_reference_backend());
    }
    return slot;
  }
};

}  // namespace longhaul
