// Messages between ranks: the one thing that an engine of the Communicator has to know.
#pragma once

#include <chrono>
#include <cstddef>
#include <span>

#include "core/status.h"

namespace longhaul {

struct Outgoing {
  int to = 0;
  const void* data = nullptr;  // host memory
  size_t bytes = 0;
};

struct Incoming {
  int from = 0;
  void* data = nullptr;  // host memory
  size_t bytes = 0;
};

// One rank's end of a world of ranks. Used by one thread at a time.
class Transport {
 public:
  virtual ~Transport() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // Sends and receives all of these, in any order, and returns when every buffer may be used again. No message
  // goes to the sender itself. From one rank to another messages arrive in the order they were sent. A rank
  // that is gone, or does not answer within `timeout`, or sends another number of bytes, is kCommunication;
  // this rank then answers nobody any more, so that all others learn of it, and every later call fails.
  virtual Status exchange(std::span<const Outgoing> sends, std::span<const Incoming> receives,
                          std::chrono::milliseconds timeout) = 0;
};

}  // namespace longhaul
