// Devices by name: "cpu", "reference", "cuda" (the first GPU), "cuda:N".
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/device_family.h"

namespace longhaul {

// `threads` 0 means one per available core; a GPU needs none. kUnsupported says why the device cannot be used.
Result<std::unique_ptr<Backend>> open_device(const std::string& name, int threads);

struct ChosenDevice {
  std::unique_ptr<Backend> backend;
  std::string note;  // why it is not a GPU, when it was for us to choose
};

// As open_device; "auto" is the first GPU, or the CPU when there is none that can be used.
Result<ChosenDevice> choose_device(const std::string& name, int threads);

struct DeviceReport {
  std::string name;
  bool available = false;
  std::string description;  // or why it is not available
};

// The CPU, the reference, and every GPU or one "cuda" that is not available.
std::vector<DeviceReport> list_devices();

// From now on NAME and NAME:N are devices of `family`; "cuda" then replaces the CUDA library. `family` is never
// freed.
void register_devices(const std::string& name, const DeviceFamily& family);

}  // namespace longhaul
