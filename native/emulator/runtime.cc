#include "emulator/runtime.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <utility>

namespace longhaul::emulator {
namespace {

std::recursive_mutex& api_mutex() {
  static std::recursive_mutex mutex;
  return mutex;
}
int kernels_running = 0;

DeviceModel model_of_environment() {
  DeviceModel model;
  if (const char* capability = std::getenv("LONGHAUL_EMULATOR_CAPABILITY"))
    model.compute_capability = static_cast<int>(std::strtol(capability, nullptr, 10));
  return model;
}

bool can_run(const CUstream_st* stream) {
  if (stream->state.queue.empty()) return false;
  const QueueEntry& front = stream->state.queue.front();
  return front.awaited == nullptr || front.awaited->completed >= front.version;
}

// Forward: the stream somebody waits for, others only for its sake. Reverse: all others first. Both are the
// extremes of what a device may do; random is in between.
CUstream_st* choose_stream(CUstream_st* preferred) {
  std::vector<CUstream_st*> candidates;
  for (CUstream_st* stream : runtime().streams)
    if (can_run(stream)) candidates.push_back(stream);
  if (candidates.empty()) return nullptr;
  switch (schedule().order) {
    case Order::kForward:
      return preferred != nullptr && can_run(preferred) ? preferred : candidates.front();
    case Order::kReverse:
      return candidates.back() == preferred && candidates.size() > 1 ? candidates[candidates.size() - 2]
                                                                     : candidates.back();
    case Order::kRandom:
      return candidates[runtime().random.below(candidates.size())];
  }
  return candidates.front();
}

void run_front(CUstream_st* stream) {
  QueueEntry entry = std::move(stream->state.queue.front());
  stream->state.queue.pop_front();
  const cudaError_t error = entry.work ? entry.work() : cudaSuccess;
  if (error != cudaSuccess && runtime().lost == cudaSuccess) lose(error, cudaGetErrorString(error));
}

CUstream_st& default_stream() {
  static CUstream_st* stream = [] {
    auto* made = new CUstream_st;  // lives as long as the process, as the device does
    made->state.blocking = true;
    runtime().streams.push_back(made);
    return made;
  }();
  return *stream;
}

bool is_default(cudaStream_t stream) {
  return stream == nullptr || stream == cudaStreamLegacy || stream == cudaStreamPerThread ||
         stream == &default_stream();
}

bool blocking_streams_idle() {
  return std::none_of(runtime().streams.begin(), runtime().streams.end(),
                      [](const CUstream_st* s) { return s->state.blocking && !s->state.queue.empty(); });
}

thread_local cudaError_t last_error = cudaSuccess;

}  // namespace

Runtime& runtime() {
  static Runtime* state = [] {
    auto* made = new Runtime;
    made->model = model_of_environment();
    made->random = ScheduleRandom(schedule().seed);
    return made;
  }();
  return *state;
}

ApiCall::ApiCall() {
  api_mutex().lock();
}
ApiCall::~ApiCall() {
  api_mutex().unlock();
}
cudaError_t ApiCall::result(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

StreamState& state_of(cudaStream_t stream) {
  return is_default(stream) ? default_stream().state : stream->state;
}

cudaError_t lose(cudaError_t error, const char* message) {
  Runtime& all = runtime();
  std::fprintf(stderr, "cuda emulator: %s\n", message);
  all.report += all.report.empty() ? message : std::string("\n") + message;
  if (all.lost == cudaSuccess) all.lost = error;
  for (CUstream_st* stream : all.streams) stream->state.queue.clear();
  return all.lost;
}

cudaError_t run_until(CUstream_st* preferred, const std::function<bool()>& done) {
  Runtime& all = runtime();
  // A host function in a stream may not call the runtime, and a kernel cannot.
  if (kernels_running > 0) return cudaErrorNotPermitted;
  if (all.lost != cudaSuccess || done()) return all.lost;
  const DeviceAccess access;
  ++kernels_running;
  while (all.lost == cudaSuccess && !done()) {
    CUstream_st* stream = choose_stream(preferred);
    if (stream == nullptr) break;
    run_front(stream);
  }
  --kernels_running;
  if (all.lost == cudaSuccess)
    if (const char* message = check_device_canaries()) lose(cudaErrorIllegalAddress, message);
  return all.lost;
}

void run_something() {
  bool ran = false;
  run_until(nullptr, [&ran] { return std::exchange(ran, true); });
}

cudaError_t drain_stream(cudaStream_t stream) {
  CUstream_st* handle = is_default(stream) ? &default_stream() : stream;
  return run_until(handle, [handle] { return handle->state.queue.empty(); });
}

cudaError_t drain_all() {
  const auto& streams = runtime().streams;
  return run_until(nullptr, [&streams] {
    return std::all_of(streams.begin(), streams.end(),
                       [](const CUstream_st* s) { return s->state.queue.empty(); });
  });
}

cudaError_t enqueue(cudaStream_t stream, Work work) {
  Runtime& all = runtime();
  StreamState& state = state_of(stream);
  if (state.recording != nullptr) {
    Recording& recording = *state.recording;
    if (recording.invalid) return cudaErrorStreamCaptureInvalidated;
    recording.nodes.push_back({std::move(work), state.tail});
    state.tail = {recording.nodes.size() - 1};
    return cudaSuccess;
  }
  if (all.lost != cudaSuccess) return all.lost;
  if (!is_default(stream)) {
    state.queue.push_back({std::move(work), nullptr, 0});
    return cudaSuccess;
  }
  // The default stream waits for all blocking ones and they for it: running it at once is one of the orders
  // allowed.
  if (const cudaError_t error = run_until(nullptr, blocking_streams_idle); error != cudaSuccess) return error;
  state.queue.push_back({std::move(work), nullptr, 0});
  return drain_stream(stream);
}

bool spoils_recording() {
  bool spoiled = false;
  for (CUstream_st* stream : runtime().streams) {
    Recording* recording = stream->state.recording.get();
    if (recording == nullptr || recording->mode == cudaStreamCaptureModeRelaxed) continue;
    if (recording->mode == cudaStreamCaptureModeThreadLocal && recording->thread != std::this_thread::get_id())
      continue;
    recording->invalid = true;
    spoiled = true;
  }
  return spoiled;
}

// ---- the interface of tests ----

void set_device(const DeviceModel& model) {
  const ApiCall call;
  runtime().model = model;
}
const DeviceModel& device_model() {
  return runtime().model;
}

Counts counts() {
  const ApiCall call;
  Counts now = runtime().counts;
  now.live_bytes = device_bytes_in_use();
  return now;
}

void fail_launch(uint64_t n, cudaError_t error) {
  const ApiCall call;
  runtime().fail_launch_at = runtime().counts.launches + n;
  runtime().fail_launch_error = error;
}
void fail_allocation(uint64_t n) {
  const ApiCall call;
  runtime().fail_allocation_at = runtime().counts.allocations + n;
}
void lose_device(uint64_t n, cudaError_t error) {
  const ApiCall call;
  runtime().lose_at = runtime().counts.kernels + n;
  runtime().lose_error = error;
}

std::string take_report() {
  const ApiCall call;
  return std::exchange(runtime().report, std::string());
}

void reset() {
  const ApiCall call;
  Runtime& all = runtime();
  for (CUstream_st* stream : all.streams) {
    stream->state.queue.clear();
    stream->state.recording.reset();
  }
  all.lost = cudaSuccess;
  all.report.clear();
  all.fail_launch_at = all.fail_allocation_at = all.lose_at = 0;
  all.random = ScheduleRandom(schedule().seed);
  last_error = cudaSuccess;
}

}  // namespace longhaul::emulator

using longhaul::emulator::ApiCall;

extern "C" {

cudaError_t cudaGetLastError() {
  ApiCall call;
  // A lost device stays the answer.
  if (call.lost() != cudaSuccess) return call.lost();
  return std::exchange(longhaul::emulator::last_error, cudaSuccess);
}

cudaError_t cudaPeekAtLastError() {
  ApiCall call;
  return call.lost() != cudaSuccess ? call.lost() : longhaul::emulator::last_error;
}

}  // extern "C"
