// Devices of one kind, of code that is not linked but found at run time.
#pragma once

#include <memory>
#include <string>

#include "core/backend.h"

namespace longhaul {

// Devices are numbered from 0. kUnsupported says why one cannot be used.
struct DeviceFamily {
  Result<std::string> (*describe)(int index);  // as Backend::description, without opening it
  Result<std::unique_ptr<Backend>> (*open)(int index);
};

}  // namespace longhaul
