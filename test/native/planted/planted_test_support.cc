#include "planted/planted_test_support.h"

#include <algorithm>
#include <cmath>

namespace longhaul::testing {

std::vector<emulator::Schedule> planted_schedules() {
  std::vector<emulator::Schedule> schedules = {{emulator::Order::kForward, 1}, {emulator::Order::kReverse, 1}};
  for (uint64_t seed = 1; seed <= 8; ++seed) schedules.push_back({emulator::Order::kRandom, seed});
  return schedules;
}

DeviceFloats::DeviceFloats(const std::vector<float>& values) : count_(values.size()) {
  const size_t bytes = count_ * sizeof(float);
  void* data = nullptr;
  EXPECT_EQ(cudaMalloc(&data, bytes), cudaSuccess);
  data_ = static_cast<float*>(data);
  EXPECT_EQ(cudaMemcpy(data_, values.data(), bytes, cudaMemcpyHostToDevice), cudaSuccess);
}

DeviceFloats::~DeviceFloats() {
  static_cast<void>(cudaFree(data_));  // fails by design where the test lost the device
}

std::vector<float> DeviceFloats::read() const {
  std::vector<float> values(count_, NAN);
  if (cudaDeviceSynchronize() != cudaSuccess) return values;
  if (cudaMemcpy(values.data(), data_, count_ * sizeof(float), cudaMemcpyDeviceToHost) != cudaSuccess)
    std::fill(values.begin(), values.end(), NAN);
  return values;
}

std::vector<Outcome> in_every_schedule(const std::function<bool()>& is_right) {
  std::vector<Outcome> outcomes;
  const emulator::Schedule before = emulator::schedule();
  for (const emulator::Schedule& schedule : planted_schedules()) {
    emulator::schedule() = schedule;
    emulator::reset();
    Outcome outcome;
    outcome.wrong = !is_right();
    outcome.report = emulator::take_report();
    outcomes.push_back(outcome);
    emulator::reset();
  }
  emulator::schedule() = before;
  return outcomes;
}

std::vector<Outcome> outcomes_of(RunKernel run, Bug bug,
                                 const std::function<float(const std::vector<float>&, int)>& expected) {
  std::vector<float> values(kThreads * kTiles);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i * i % 251);  // sums are exact
  return in_every_schedule([&] {
    const DeviceFloats in(values), out(std::vector<float>(kThreads, 0.0f));
    if (run(bug, in.data(), out.data(), nullptr) != cudaSuccess) return false;
    const std::vector<float> got = out.read();
    for (int i = 0; i < kThreads; ++i)
      if (!(std::abs(got[static_cast<size_t>(i)] - expected(values, i)) < 1e-3f)) return false;
    return true;
  });
}

void expect_clean(const std::vector<Outcome>& outcomes) {
  for (const Outcome& outcome : outcomes) {
    EXPECT_FALSE(outcome.wrong);
    EXPECT_EQ(outcome.report, "");
  }
}

void expect_caught(const std::vector<Outcome>& outcomes) {
  EXPECT_TRUE(
      std::any_of(outcomes.begin(), outcomes.end(), [](const Outcome& outcome) { return outcome.caught(); }));
}

void expect_reported(const std::vector<Outcome>& outcomes, const std::string& words) {
  for (const Outcome& outcome : outcomes)
    EXPECT_NE(outcome.report.find(words), std::string::npos) << "reported instead: " << outcome.report;
}

}  // namespace longhaul::testing
