// Stream capture and graphs of the emulated runtime.
#include <algorithm>

#include "emulator/runtime.h"

using namespace longhaul::emulator;

namespace {

// Whether every node comes before the end of the stream that began the recording.
bool joined(const Recording& recording, const std::vector<size_t>& tail) {
  std::vector<bool> reached(recording.nodes.size(), false);
  std::vector<size_t> open = tail;
  while (!open.empty()) {
    const size_t node = open.back();
    open.pop_back();
    if (reached[node]) continue;
    reached[node] = true;
    open.insert(open.end(), recording.nodes[node].after.begin(), recording.nodes[node].after.end());
  }
  return std::find(reached.begin(), reached.end(), false) == reached.end();
}

// Which of the nodes that can run goes next: any may.
size_t choose(const std::vector<size_t>& candidates) {
  switch (schedule().order) {
    case Order::kForward:
      return candidates.front();
    case Order::kReverse:
      return candidates.back();
    case Order::kRandom:
      return candidates[runtime().random.below(candidates.size())];
  }
  return candidates.front();
}

cudaError_t run_graph(const Recording& recording) {
  const size_t nodes = recording.nodes.size();
  std::vector<size_t> missing(nodes);
  std::vector<std::vector<size_t>> followers(nodes);
  std::vector<size_t> candidates;
  for (size_t i = 0; i < nodes; ++i) {
    missing[i] = recording.nodes[i].after.size();
    for (const size_t before : recording.nodes[i].after) followers[before].push_back(i);
    if (missing[i] == 0) candidates.push_back(i);
  }
  while (!candidates.empty()) {
    const size_t node = choose(candidates);
    candidates.erase(std::find(candidates.begin(), candidates.end(), node));
    if (const cudaError_t error = recording.nodes[node].work(); error != cudaSuccess) return error;
    for (const size_t follower : followers[node])
      if (--missing[follower] == 0) candidates.push_back(follower);
  }
  return cudaSuccess;
}

}  // namespace

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  ApiCall call;
  if (call.lost() != cudaSuccess) return call.result(call.lost());
  StreamState& state = state_of(stream);
  // The default stream cannot be recorded.
  if (&state == &state_of(nullptr)) return call.result(cudaErrorStreamCaptureUnsupported);
  if (state.recording != nullptr) return call.result(cudaErrorIllegalState);
  state.recording = std::make_shared<Recording>();
  state.recording->origin = stream;
  state.recording->mode = mode;
  state.recording->thread = std::this_thread::get_id();
  state.tail.clear();
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  ApiCall call;
  *graph = nullptr;
  const std::shared_ptr<Recording> recording = state_of(stream).recording;
  if (recording == nullptr) return call.result(cudaErrorIllegalState);
  if (recording->origin != stream) {
    recording->invalid = true;
    return call.result(cudaErrorStreamCaptureUnmatched);
  }
  const std::vector<size_t> tail = state_of(stream).tail;
  for (CUstream_st* other : runtime().streams) {
    if (other->state.recording != recording) continue;
    other->state.recording.reset();
    other->state.tail.clear();
  }
  if (recording->invalid) return call.result(cudaErrorStreamCaptureInvalidated);
  if (!joined(*recording, tail)) return call.result(cudaErrorStreamCaptureUnjoined);
  *graph = new CUgraph_st{recording};
  return call.result(call.lost());
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  ApiCall call;
  const auto& recording = state_of(stream).recording;
  *status = recording == nullptr ? cudaStreamCaptureStatusNone
            : recording->invalid ? cudaStreamCaptureStatusInvalidated
                                 : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
  ApiCall call;
  if (nodes != nullptr) return call.result(cudaErrorNotSupported);
  *count = graph->recording->nodes.size();
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  ApiCall call;
  if (call.lost() != cudaSuccess) return call.result(call.lost());
  *executable = new CUgraphExec_st{graph->recording};
  return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) {
  ApiCall call;
  return call.result(call.lost());
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  ApiCall call;
  if (call.lost() != cudaSuccess) return call.result(call.lost());
  return call.result(enqueue(stream, [recording = executable->recording] { return run_graph(*recording); }));
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  ApiCall call;
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  ApiCall call;
  delete executable;  // launches under way hold the recording
  return cudaSuccess;
}

}  // extern "C"
