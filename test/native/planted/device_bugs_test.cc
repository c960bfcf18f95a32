// A test of the tests: what the emulator is there to find in kernels, it finds. Each kernel passes without its
// bug.
#include "planted/planted_test_support.h"

namespace longhaul::testing {
namespace {

using Values = std::vector<float>;

float two_of_each_tile(const Values& in, int i) {
  float sum = 0.0f;
  for (int t = 0; t < kTiles; ++t)
    sum +=
        in[static_cast<size_t>(t * kThreads + i)] + in[static_cast<size_t>(t * kThreads + (i + 33) % kThreads)];
  return sum;
}
float one_of_each_tile(const Values& in, int i) {
  float sum = 0.0f;
  for (int t = 0; t < kTiles; ++t) sum += in[static_cast<size_t>(t * kThreads + i)];
  return sum;
}
float opposite_lane(const Values& in, int i) {
  return in[static_cast<size_t>(i ^ 31)];
}

// A race: by its effect in some schedule; with the detector by name, in every one.
void expect_race(RunKernel run, Bug bug, float (*expected)(const Values&, int)) {
  const std::vector<Outcome> outcomes = outcomes_of(run, bug, expected);
  expect_caught(outcomes);
  if (kRaceDetector) expect_reported(outcomes, "shared memory race");
}

TEST(PlantedDeviceBug, KernelsAreRightWithoutOne) {
  expect_clean(outcomes_of(run_tile_sum, Bug::kNone, two_of_each_tile));
  expect_clean(outcomes_of(run_async_tile_sum, Bug::kNone, two_of_each_tile));
  expect_clean(outcomes_of(run_warp_reverse, Bug::kNone, opposite_lane));
  expect_clean(outcomes_of(run_bulk_tile_sum, Bug::kNone, one_of_each_tile));
}

TEST(PlantedDeviceBug, MissingBarrierBeforeReuse) {
  expect_race(run_tile_sum, Bug::kNoBarrierBeforeReuse, two_of_each_tile);
  expect_race(run_async_tile_sum, Bug::kNoBarrierBeforeReuse, two_of_each_tile);
}

TEST(PlantedDeviceBug, MissingBarrierAfterLoad) {
  expect_race(run_tile_sum, Bug::kNoBarrierAfterLoad, two_of_each_tile);
  expect_race(run_async_tile_sum, Bug::kNoBarrierAfterLoad, two_of_each_tile);
}

TEST(PlantedDeviceBug, MissingWarpBarrier) {
  expect_race(run_warp_reverse, Bug::kNoWarpBarrier, opposite_lane);
}

TEST(PlantedDeviceBug, MissingWaitOfAsynchronousCopies) {
  for (const Outcome& outcome : outcomes_of(run_async_tile_sum, Bug::kNoAsyncWait, two_of_each_tile))
    EXPECT_TRUE(outcome.caught());
}

TEST(PlantedDeviceBug, MissingWaitOfBulkCopies) {
  // A race, or consumers so far ahead that the producer waits for ever.
  for (const Outcome& outcome : outcomes_of(run_bulk_tile_sum, Bug::kNoFullWait, one_of_each_tile))
    EXPECT_TRUE(outcome.caught());
  // The producer announces a tile into a phase that is not over: the mbarrier itself notices.
  expect_reported(outcomes_of(run_bulk_tile_sum, Bug::kNoEmptyWait, one_of_each_tile),
                  "mbarrier: more arrivals");
}

TEST(PlantedDeviceBug, SharedMemoryPastItsEnd) {
  if (emulator::kAddressSanitizer) {
    for (const Bug bug : {Bug::kWriteOnePast, Bug::kReadOnePast})
      EXPECT_DEATH(outcomes_of(run_tile_sum, bug, two_of_each_tile), "use-after-poison");
    return;
  }
  // Threads write each other's elements too: with the detector that race comes first.
  const char* words = kRaceDetector ? "shared memory race" : "shared memory written 0 bytes past its end";
  expect_reported(outcomes_of(run_tile_sum, Bug::kWriteOnePast, two_of_each_tile), words);
  for (const Outcome& outcome : outcomes_of(run_tile_sum, Bug::kReadOnePast, two_of_each_tile))
    EXPECT_TRUE(outcome.caught());
}

TEST(PlantedDeviceBug, SharedMemoryNobodyWrote) {
  for (const Outcome& outcome : outcomes_of(run_tile_sum, Bug::kUninitialised, two_of_each_tile))
    EXPECT_TRUE(outcome.caught());
}

TEST(PlantedDeviceBug, BarriersThatDiverge) {
  expect_reported(outcomes_of(run_tile_sum, Bug::kDivergentBarrier, two_of_each_tile), "divergent barrier");
}

TEST(PlantedDeviceBug, BarrierThatSomeNeverReach) {
  expect_reported(outcomes_of(run_warp_reverse, Bug::kBarrierInBranch, opposite_lane), "deadlock");
}

TEST(PlantedDeviceBug, DeviceMemoryPastItsEnd) {
  const auto scale = [](Bug bug, const float* in, float* out, cudaStream_t stream) {
    return run_scale(bug, in, out, kThreads, 2.0f, stream);
  };
  const auto twice = [](const Values& in, int i) { return 2.0f * in[static_cast<size_t>(i)]; };
  expect_clean(outcomes_of(scale, Bug::kNone, twice));
  if (emulator::kAddressSanitizer) {
    EXPECT_DEATH(outcomes_of(scale, Bug::kStoreOnePast, twice), "use-after-poison");
  } else {
    expect_reported(outcomes_of(scale, Bug::kStoreOnePast, twice),
                    "device memory written 0 bytes past the end");
  }
}

}  // namespace
}  // namespace longhaul::testing
