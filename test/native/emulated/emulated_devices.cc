#include "emulated/emulated_devices.h"

#include "cuda/backend.h"
#include "emulator/emulator.h"

namespace longhaul::testing {

Result<std::unique_ptr<Backend>> make_cuda_emulated_backend(int compute_capability) {
  emulator::DeviceModel model;
  model.compute_capability = compute_capability;
  emulator::set_device(model);
  return make_cuda_backend(0);
}

}  // namespace longhaul::testing
