// A test of the tests: what the emulated runtime is there to find in host code, it finds. Each sequence of
// calls passes without its bug.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "planted/planted_test_support.h"

namespace longhaul::testing {
namespace {

constexpr int kCount = 100;
constexpr size_t kBytes = kCount * sizeof(float);

cudaStream_t make_stream() {
  cudaStream_t stream = nullptr;
  EXPECT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  return stream;
}

bool all_are(const std::vector<float>& values, float expected) {
  for (const float value : values)
    if (!(value == expected)) return false;  // NaN is not
  return true;
}

// Two streams: one makes `middle` of `in`, the other `out` of `middle`.
bool event_orders_streams(bool wait) {
  const DeviceFloats in(std::vector<float>(kCount, 3.0f)), middle(std::vector<float>(kCount, 0.0f)),
      out(std::vector<float>(kCount, 0.0f));
  const cudaStream_t producer = make_stream(), consumer = make_stream();
  cudaEvent_t made = nullptr;
  EXPECT_EQ(cudaEventCreateWithFlags(&made, cudaEventDisableTiming), cudaSuccess);
  EXPECT_EQ(run_scale(Bug::kNone, in.data(), middle.data(), kCount, 2.0f, producer), cudaSuccess);
  EXPECT_EQ(cudaEventRecord(made, producer), cudaSuccess);
  if (wait) {
    EXPECT_EQ(cudaStreamWaitEvent(consumer, made, 0), cudaSuccess);
  }
  EXPECT_EQ(run_scale(Bug::kNone, middle.data(), out.data(), kCount, 5.0f, consumer), cudaSuccess);
  const bool right = all_are(out.read(), 30.0f);
  EXPECT_EQ(cudaEventDestroy(made), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(producer), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(consumer), cudaSuccess);
  return right;
}

TEST(PlantedHostBug, MissingEventWait) {
  expect_clean(in_every_schedule([] { return event_orders_streams(true); }));
  expect_caught(in_every_schedule([] { return event_orders_streams(false); }));
}

bool upload_then_reuse(bool wait) {
  const DeviceFloats in(std::vector<float>(kCount, 0.0f));
  const cudaStream_t stream = make_stream();
  void* pinned = nullptr;
  EXPECT_EQ(cudaMallocHost(&pinned, kBytes), cudaSuccess);
  auto* values = static_cast<float*>(pinned);
  std::fill(values, values + kCount, 7.0f);
  EXPECT_EQ(cudaMemcpyAsync(in.data(), values, kBytes, cudaMemcpyHostToDevice, stream), cudaSuccess);
  if (wait) {
    EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  }
  std::fill(values, values + kCount, 8.0f);
  const bool right = all_are(in.read(), 7.0f);
  EXPECT_EQ(cudaFreeHost(pinned), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
  return right;
}

TEST(PlantedHostBug, HostBufferReusedEarly) {
  expect_clean(in_every_schedule([] { return upload_then_reuse(true); }));
  for (const Outcome& outcome : in_every_schedule([] { return upload_then_reuse(false); }))
    EXPECT_TRUE(outcome.caught());
}

bool download_then_read(bool wait) {
  const DeviceFloats in(std::vector<float>(kCount, 7.0f));
  const cudaStream_t stream = make_stream();
  void* pinned = nullptr;
  EXPECT_EQ(cudaMallocHost(&pinned, kBytes), cudaSuccess);
  auto* values = static_cast<float*>(pinned);
  std::fill(values, values + kCount, 7.0f);  // as a lucky earlier run would have left it
  EXPECT_EQ(cudaMemcpyAsync(values, in.data(), kBytes, cudaMemcpyDeviceToHost, stream), cudaSuccess);
  if (wait) {
    EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  }
  const bool right = all_are({values, values + kCount}, 7.0f);
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
  EXPECT_EQ(cudaFreeHost(pinned), cudaSuccess);
  return right;
}

TEST(PlantedHostBug, DownloadReadEarly) {
  expect_clean(in_every_schedule([] { return download_then_read(true); }));
  for (const Outcome& outcome : in_every_schedule([] { return download_then_read(false); }))
    EXPECT_TRUE(outcome.caught());
}

// A graph is recorded once and replayed with another scale. The right way lets the kernel read what changes
// from device memory (here: its input); an argument stays what it was.
bool replay_with_new_scale(bool as_argument) {
  const DeviceFloats in(std::vector<float>(kCount, 1.0f)), out(std::vector<float>(kCount, 0.0f));
  const cudaStream_t stream = make_stream();
  float scale = 2.0f;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  EXPECT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  EXPECT_EQ(run_scale(Bug::kNone, in.data(), out.data(), kCount, scale, stream), cudaSuccess);
  EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  EXPECT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
  EXPECT_TRUE(all_are(out.read(), 0.0f)) << "recording ran the kernel";
  if (as_argument) {
    scale = 6.0f;
  } else {
    const std::vector<float> three(kCount, 3.0f);
    EXPECT_EQ(cudaMemcpyAsync(in.data(), three.data(), kBytes, cudaMemcpyHostToDevice, stream), cudaSuccess);
  }
  EXPECT_EQ(cudaGraphLaunch(executable, stream), cudaSuccess);
  const bool right = all_are(out.read(), 6.0f);
  EXPECT_EQ(cudaGraphExecDestroy(executable), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
  return right;
}

TEST(PlantedHostBug, ArgumentChangedAfterCapture) {
  expect_clean(in_every_schedule([] { return replay_with_new_scale(false); }));
  for (const Outcome& outcome : in_every_schedule([] { return replay_with_new_scale(true); }))
    EXPECT_TRUE(outcome.caught());
}

bool freed_in_stream_order(bool right_stream) {
  const DeviceFloats in(std::vector<float>(kCount, 4.0f)), out(std::vector<float>(kCount, 0.0f));
  const cudaStream_t work = make_stream(), other = make_stream();
  void* memory = nullptr;
  EXPECT_EQ(cudaMallocAsync(&memory, kBytes, work), cudaSuccess);
  auto* middle = static_cast<float*>(memory);
  EXPECT_EQ(run_scale(Bug::kNone, in.data(), middle, kCount, 2.0f, work), cudaSuccess);
  EXPECT_EQ(run_scale(Bug::kNone, middle, out.data(), kCount, 2.0f, work), cudaSuccess);
  EXPECT_EQ(cudaFreeAsync(memory, right_stream ? work : other), cudaSuccess);
  const bool right = all_are(out.read(), 16.0f);
  static_cast<void>(cudaStreamDestroy(work));
  static_cast<void>(cudaStreamDestroy(other));
  return right;
}

TEST(PlantedHostBug, MemoryFreedInAnotherStream) {
  expect_clean(in_every_schedule([] { return freed_in_stream_order(true); }));
  if (emulator::kAddressSanitizer) {
    EXPECT_DEATH(in_every_schedule([] { return freed_in_stream_order(false); }), "use-after-poison");
  } else {
    expect_caught(in_every_schedule([] { return freed_in_stream_order(false); }));
  }
}

TEST(PlantedHostBug, HostCodeFollowsADevicePointer) {
  const DeviceFloats in(std::vector<float>(kCount, 4.0f));
  // Under AddressSanitizer the fault has its name, without it the process has only a signal.
  EXPECT_DEATH(std::printf("%f", static_cast<double>(in.data()[0])), emulator::kAddressSanitizer ? "SEGV" : "");
}

}  // namespace
}  // namespace longhaul::testing
