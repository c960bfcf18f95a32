// Runs a piece of device code in many schedules and says what came of it.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "emulator/address_sanitizer.h"
#include "emulator/emulator.h"
#include "planted/device_bugs.h"

namespace longhaul::testing {

#if defined(LONGHAUL_EMULATOR_RACE)
constexpr bool kRaceDetector = true;
#else
constexpr bool kRaceDetector = false;
#endif

// What a suite would see of one run.
struct Outcome {
  bool wrong = false;  // the numbers are not those expected
  std::string report;  // of the emulator
  bool caught() const { return wrong || !report.empty(); }
};

// Forward, reverse and a few random ones.
std::vector<emulator::Schedule> planted_schedules();

// Device memory holding these values.
class DeviceFloats {
 public:
  explicit DeviceFloats(const std::vector<float>& values);
  ~DeviceFloats();
  DeviceFloats(const DeviceFloats&) = delete;
  DeviceFloats& operator=(const DeviceFloats&) = delete;
  float* data() const { return data_; }
  // Waits for everything; NaN when the device is lost.
  std::vector<float> read() const;

 private:
  float* data_ = nullptr;
  size_t count_;
};

// Runs in each schedule and collects what `run` says is wrong and what the emulator reports.
std::vector<Outcome> in_every_schedule(const std::function<bool()>& is_right);

// The outcomes of a kernel on the usual input against the numbers expected of it.
using RunKernel = cudaError_t (*)(Bug, const float*, float*, cudaStream_t);
std::vector<Outcome> outcomes_of(RunKernel run, Bug bug,
                                 const std::function<float(const std::vector<float>&, int)>& expected);

// No schedule shows anything.
void expect_clean(const std::vector<Outcome>& outcomes);
// At least one does: what the three schedules of the suites are for.
void expect_caught(const std::vector<Outcome>& outcomes);
// Every one does, by a report that contains `words`.
void expect_reported(const std::vector<Outcome>& outcomes, const std::string& words);

}  // namespace longhaul::testing
