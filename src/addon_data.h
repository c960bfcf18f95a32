// What one environment (the main thread or a worker) holds of the addon. Nothing is static: environments come
// and go on their own.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "engine/devices.h"

namespace longhaul {

struct AddonData {
  // Made when a kernel first asks for it and kept, so that a call does not start threads.
  std::map<std::string, std::shared_ptr<Backend>> backends;

  Result<std::shared_ptr<Backend>> backend(const std::string& device) {
    std::shared_ptr<Backend>& slot = backends[device];
    if (slot == nullptr) {
      LONGHAUL_ASSIGN(ChosenDevice chosen, choose_device(device, 0));
      slot = std::move(chosen.backend);
    }
    return slot;
  }
};

}  // namespace longhaul
