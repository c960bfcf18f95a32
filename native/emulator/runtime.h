// The state behind the emulated CUDA runtime. Every entry point holds the one lock (ApiCall) while it works.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "emulator/emulator.h"
#include "emulator/launch.h"

// The opaque handles of the runtime API are these.
struct CUstream_st;
struct CUevent_st;

namespace longhaul::emulator {

// One piece of work. It holds its arguments by value, as they were when it was queued.
using Work = std::function<cudaError_t()>;

// Work recorded instead of run. Nodes are in the order of recording, which is one of those their edges allow.
struct GraphNode {
  Work work;
  std::vector<size_t> after;
};
struct Recording {
  std::vector<GraphNode> nodes;
  CUstream_st* origin = nullptr;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  std::thread::id thread;  // that began it
  bool invalid = false;    // a call that cannot be recorded was made meanwhile
};

struct QueueEntry {
  Work work;
  // Not before this event has completed its `version`-th record; null: at once.
  std::shared_ptr<struct EventState> awaited;
  uint64_t version = 0;
};

struct EventState {
  uint64_t recorded = 0;   // records queued
  uint64_t completed = 0;  // the last one that ran
  std::chrono::steady_clock::time_point when;
  std::shared_ptr<Recording> recording;  // recorded into a graph: a wait joins it
  std::vector<size_t> tail;              // the nodes to wait for, then
};

struct StreamState {
  uint64_t number = 0;  // of creation
  bool blocking = false;
  std::deque<QueueEntry> queue;
  std::shared_ptr<Recording> recording;
  std::vector<size_t> tail;  // of the recording: what the next node comes after
};

struct Runtime {
  std::vector<CUstream_st*> streams;
  uint64_t streams_made = 0;
  cudaError_t lost = cudaSuccess;  // sticky
  std::string report;
  Counts counts;
  uint64_t fail_launch_at = 0;
  cudaError_t fail_launch_error = cudaSuccess;
  uint64_t fail_allocation_at = 0;
  uint64_t lose_at = 0;
  cudaError_t lose_error = cudaSuccess;
  DeviceModel model;
  ScheduleRandom random;
};
Runtime& runtime();

// Holds the lock for one call of the runtime API and makes its result the thread's last error.
class ApiCall {
 public:
  ApiCall();
  ~ApiCall();
  ApiCall(const ApiCall&) = delete;
  ApiCall& operator=(const ApiCall&) = delete;
  // The error a lost device gives to every call.
  cudaError_t lost() const { return runtime().lost; }
  cudaError_t result(cudaError_t error);
};

// Puts work into a stream's queue or recording.
cudaError_t enqueue(cudaStream_t stream, Work work);
// Runs queued work, in the schedule's order, until `done` or until nothing can run. Returns the sticky error.
cudaError_t run_until(CUstream_st* preferred, const std::function<bool()>& done);
cudaError_t drain_stream(cudaStream_t stream);
cudaError_t drain_all();
// Runs one piece of work, if any can run: what the device would have done meanwhile.
void run_something();
// For calls that may not be made while a stream is recorded: spoils the recordings that forbid it to this
// thread.
bool spoils_recording();

StreamState& state_of(cudaStream_t stream);  // null: the default stream

// Loses the device with a message for people.
cudaError_t lose(cudaError_t error, const char* message);

// ---- memory (device_memory.cc) ----
// Device memory nobody may touch while host code runs; poisoned (0xff) when allocated and when freed.
void* allocate_device(size_t bytes);
bool free_device(void* data);
bool is_device(const void* data);
// Whether [data, data + bytes) lies in one allocation.
bool in_allocation(const void* data, size_t bytes);
size_t device_bytes_in_use();
void* allocate_pinned(size_t bytes);
bool free_pinned(void* data);
bool is_pinned(const void* data);
// The message of a write past the end of an allocation, or null.
const char* check_device_canaries();

// While one lives, device memory can be touched.
class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
  DeviceAccess& operator=(const DeviceAccess&) = delete;
};

}  // namespace longhaul::emulator

struct CUstream_st {
  longhaul::emulator::StreamState state;
};
struct CUevent_st {
  std::shared_ptr<longhaul::emulator::EventState> state = std::make_shared<longhaul::emulator::EventState>();
};
struct CUgraph_st {
  std::shared_ptr<longhaul::emulator::Recording> recording;
};
struct CUgraphExec_st {
  std::shared_ptr<longhaul::emulator::Recording> recording;
};
