// Streams and events of the emulated runtime: lazy queues, ordered by nothing but themselves and the events.
#include <algorithm>

#include "emulator/runtime.h"

using namespace longhaul::emulator;

namespace {

using EventPointer = std::shared_ptr<EventState>;

cudaError_t record(EventState& event, const EventPointer& shared, cudaStream_t stream) {
  StreamState& state = state_of(stream);
  if (state.recording != nullptr) {
    event.recording = state.recording;
    event.tail = state.tail;
    return cudaSuccess;
  }
  event.recording.reset();
  const uint64_t version = ++event.recorded;
  return enqueue(stream, [shared, version] {
    shared->completed = version;
    shared->when = std::chrono::steady_clock::now();
    return cudaSuccess;
  });
}

cudaError_t wait_in_stream(cudaStream_t stream, const EventPointer& event) {
  StreamState& state = state_of(stream);
  if (event->recording != nullptr) {
    // Recorded in a capture: this stream becomes part of it.
    if (state.recording != nullptr && state.recording != event->recording)
      return cudaErrorStreamCaptureIsolation;
    state.recording = event->recording;
    for (const size_t node : event->tail)
      if (std::find(state.tail.begin(), state.tail.end(), node) == state.tail.end()) state.tail.push_back(node);
    return cudaSuccess;
  }
  if (state.recording != nullptr) {
    state.recording->invalid = true;
    return cudaErrorStreamCaptureIsolation;
  }
  if (event->recorded == 0) return cudaSuccess;  // never recorded: nothing to wait for
  state.queue.push_back({nullptr, event, event->recorded});
  return runtime().lost;
}

}  // namespace

extern "C" {

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  ApiCall call;
  if (call.lost() != cudaSuccess) return call.result(call.lost());
  state_of(nullptr);  // the default stream is the first of all
  auto* made = new CUstream_st;
  made->state.number = ++runtime().streams_made;
  made->state.blocking = (flags & cudaStreamNonBlocking) == 0;
  runtime().streams.push_back(made);
  *stream = made;
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return cudaStreamCreateWithPriority(stream, flags, 0);
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithPriority(stream, cudaStreamDefault, 0);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  ApiCall call;
  auto& streams = runtime().streams;
  const auto found = std::find(streams.begin(), streams.end(), stream);
  if (stream == nullptr || found == streams.end()) return call.result(cudaErrorInvalidResourceHandle);
  // Its work goes on without it; running it now is one of the orders allowed.
  const cudaError_t error = drain_stream(stream);
  streams.erase(std::find(streams.begin(), streams.end(), stream));
  delete stream;
  return call.result(error);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  ApiCall call;
  StreamState& state = state_of(stream);
  if (state.recording != nullptr) {
    state.recording->invalid = true;
    return call.result(cudaErrorStreamCaptureUnsupported);
  }
  return call.result(drain_stream(stream));
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  ApiCall call;
  if (call.lost() != cudaSuccess) return call.result(call.lost());
  if (state_of(stream).queue.empty()) return cudaSuccess;
  run_something();
  return call.result(call.lost() != cudaSuccess ? call.lost() : cudaErrorNotReady);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  ApiCall call;
  if (event == nullptr) return call.result(cudaErrorInvalidResourceHandle);
  return call.result(wait_in_stream(stream, event->state));
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  ApiCall call;
  return call.result(enqueue(stream, [=] {
    function(data);
    return cudaSuccess;
  }));
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  ApiCall call;
  if (call.lost() != cudaSuccess) return call.result(call.lost());
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  ApiCall call;
  delete event;  // queued records and waits hold its state
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  ApiCall call;
  if (event == nullptr) return call.result(cudaErrorInvalidResourceHandle);
  return call.result(record(*event->state, event->state, stream));
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  ApiCall call;
  if (call.lost() != cudaSuccess) return call.result(call.lost());
  const EventState& state = *event->state;
  if (state.completed >= state.recorded) return cudaSuccess;
  run_something();
  return call.result(call.lost() != cudaSuccess ? call.lost() : cudaErrorNotReady);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  ApiCall call;
  if (event->state->recording != nullptr) return call.result(cudaErrorStreamCaptureUnsupported);
  const EventPointer state = event->state;
  return call.result(run_until(nullptr, [&state] { return state->completed >= state->recorded; }));
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  ApiCall call;
  for (const cudaEvent_t event : {start, end}) {
    if (event->state->recorded == 0) return call.result(cudaErrorInvalidResourceHandle);
    if (event->state->completed < event->state->recorded) return call.result(cudaErrorNotReady);
  }
  *milliseconds = std::chrono::duration<float, std::milli>(end->state->when - start->state->when).count();
  return cudaSuccess;
}

}  // extern "C"
