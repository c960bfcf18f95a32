// Lets a program's emulated GPU be one with wgmma and its shared memory: whatever older GPUs run, it runs too.
#include <gtest/gtest.h>

#include "emulator/emulator.h"

namespace longhaul::testing {
namespace {

class AsSm90 : public ::testing::Environment {
 public:
  void SetUp() override {
    emulator::DeviceModel model;
    model.compute_capability = 90;
    emulator::set_device(model);
  }
};
const auto* const kAsSm90 = ::testing::AddGlobalTestEnvironment(new AsSm90);

}  // namespace
}  // namespace longhaul::testing
